// Actions on several VMs at once.
import { expect, test } from '@playwright/test'
import { api, fresh, login } from './base.ts'

test('several VMs are selected by keyboard and deleted, with an answer for each', async ({ page, request }) => {
  const label = fresh('many')
  const names = ['a', 'b', 'c'].map((x) => `${label}-${x}`)
  for (const name of names) await api(request, 'POST', '/v1/vms', { name, labels: { set: label }, spec: { image: 'tiny', network: 'blue', cpus: 1, memory_mib: 128, power: 'off' } })
  await login(page)
  await page.goto(`/vms?q=label:set=${label}`)
  await page.getByRole('link', { name: names[0], exact: true }).focus()
  await page.keyboard.press('x')
  await page.keyboard.press('ArrowDown')
  await expect(page.getByRole('link', { name: names[1], exact: true })).toBeFocused()
  await page.keyboard.press('x')
  await expect(page.getByText('2 selected')).toBeVisible()
  await page.getByRole('group', { name: 'Actions on what is selected' }).getByRole('button', { name: 'Delete' }).press('Enter')
  const sure = page.getByRole('dialog')
  await expect(sure).toContainText('Delete 2 VMs?')
  await sure.getByRole('textbox').fill('2')
  await sure.getByRole('textbox').press('Enter')
  const results = page.getByRole('dialog', { name: 'Result for each VM' })
  await expect(results).toContainText('2 of 2 done')
  for (const name of names.slice(0, 2)) await expect(results.getByRole('listitem').filter({ hasText: name })).toContainText('done')
  await results.getByRole('button', { name: 'Close' }).press('Enter')
  await expect(page.getByRole('link', { name: names[1], exact: true })).toHaveCount(0)
  await expect(page.getByRole('link', { name: names[2], exact: true })).toBeVisible()
  await api(request, 'DELETE', `/v1/vms/${names[2]}`)
})
