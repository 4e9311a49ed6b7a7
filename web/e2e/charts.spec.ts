// What is drawn: the map, a VM's use, the ledger, what is translated.
import { expect, test } from '@playwright/test'
import { api, login } from './base.ts'

test('the map shows the sites that say where they are, the diagram all of them, and the list says the same', async ({ page }) => {
  await login(page)
  const map = page.getByRole('group', { name: /^Map of this site/ })
  for (const site of ['osaka', 'nara']) await expect(map.getByRole('link', { name: new RegExp(site) })).toBeVisible()
  await expect(page.getByText(/^sending .*, receiving /).first()).toBeVisible()
  await page.getByRole('button', { name: 'Diagram' }).press('Enter')
  await expect(map).toHaveCount(0)
  await page.reload()
  await expect(page.getByRole('button', { name: 'Diagram' })).toHaveAttribute('aria-pressed', 'true') // as it was left
  await page.getByRole('button', { name: 'Map', exact: true }).click()
  await expect(map).toBeVisible()
})

for (const [vm, site] of [['web1', 'tokyo'], ['web2', 'osaka']] as const) {
  test(`what ${vm} at ${site} uses is drawn, and is in a table`, async ({ page }) => {
    await login(page)
    await page.goto(`/vms/${vm}/usage`)
    await expect(page.getByRole('img', { name: /^CPUs in use\. CPUs in use: now [\d.]+, on average/ })).toBeVisible({ timeout: 90_000 })
    await expect(page.getByRole('img', { name: /^Disk requests\. Read requests: now/ })).toBeVisible()
    await expect(page.getByText(`Figures are kept by the host, ${site}/h`)).toBeVisible()
    await page.getByText('The figures as a table').click()
    await expect(page.getByRole('region', { name: 'The figures as a table' }).getByRole('row').nth(1)).toContainText('MiB')
    await page.getByRole('button', { name: '24 hours' }).click()
    await expect(page.getByRole('button', { name: '24 hours' })).toHaveAttribute('aria-pressed', 'true')
  })
}

test('the ledger has the loan under which web2 runs', async ({ page, request }) => {
  await login(page)
  await page.goto('/ledger')
  await expect(page.getByRole('heading', { level: 3, name: /^From osaka/ })).toBeVisible()
  await expect(page.getByRole('img', { name: /^Borrowed from others, CPU hours/ })).toBeVisible()
  await page.getByLabel('Measure').selectOption('VM hours')
  await page.getByText('All days as a table').click()
  const { days } = await api(request, 'GET', '/v1/ledger')
  expect(days.some((d: { lender: string; vm_hours: number }) => d.lender === 'osaka' && d.vm_hours > 0)).toBe(true)
  await expect(page.getByRole('region', { name: 'All days as a table' }).getByRole('row', { name: /osaka tokyo/ }).first()).toBeVisible()
})

test('a service address shows what was translated for it, and the translator what of all', async ({ page, request }) => {
  await login(page)
  const { items } = await api(request, 'GET', '/v1/addresses')
  await page.goto(`/addresses/${items[0].name}`)
  await expect(page.getByRole('heading', { name: 'What was translated' })).toBeVisible()
  await page.goto('/translators/gw')
  await expect(page.getByRole('heading', { name: 'All addresses' })).toBeVisible()
  await expect(page.getByRole('rowheader', { name: 'To the VM' })).toBeVisible()
})
