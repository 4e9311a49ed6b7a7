// A loan is taken under an offer of a peer.
import { expect, test } from '@playwright/test'
import { login } from './base.ts'

test('a loan is borrowed, and is active', async ({ page }) => {
  await login(page)
  await page.goto('/create/loans')
  await page.getByLabel('Offer').selectOption({ label: await page.getByLabel('Offer').locator('option', { hasText: 'osaka' }).innerText() })
  await page.getByRole('spinbutton', { name: 'CPUs' }).fill('1')
  await page.getByLabel('Memory (MiB)').fill('256')
  await page.getByLabel('Disk (GiB)').fill('2')
  await page.getByRole('button', { name: 'Borrow' }).click()
  await expect(page.getByText(/^Borrowed from osaka: 1 CPU, 256 MiB memory/)).toBeVisible()
  await expect(page.getByRole('definition').first()).toContainText('active')
})
