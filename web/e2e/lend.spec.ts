// A lender takes its loan back while another organisation's VM runs under it.
import { expect, test } from '@playwright/test'
import { api, login } from './base.ts'

test('a loan is reclaimed, and what ran under it leaves', async ({ page, request }) => {
  const { items } = await api(request, 'GET', '/v1/loans')
  const loan = items.find((l: any) => l.spec.borrower === 'tokyo' && l.status.state === 'active' && l.spec.lender === 'osaka')
  await login(page)
  await page.goto(`/loans?q=state:active`)
  await page.getByRole('link', { name: loan.name, exact: true }).click()
  await page.getByRole('button', { name: 'Reclaim' }).click()
  const sure = page.getByRole('dialog')
  await expect(sure).toContainText(`Reclaim loan ${loan.name}?`)
  await expect(sure).toContainText('tokyo has borrowed')
  await sure.getByRole('button', { name: 'Reclaim' }).click()
  await expect(page.getByRole('definition').first()).toContainText(/being reclaimed|ended/)
  await expect(page.getByRole('button', { name: 'Reclaim' })).toHaveCount(0)
  await expect(page.getByRole('definition').first()).toContainText('ended', { timeout: 240_000 })
  await page.goto('/guests')
  await expect(page.getByRole('heading', { name: 'No Guests yet' })).toBeVisible()
})
