// Who one is, and what one may.
import { expect, test } from '@playwright/test'
import { api, fresh, login, token } from './base.ts'

test('a token that is not known is refused, with what to do', async ({ page }) => {
  await page.goto('/vms/web1')
  await page.getByLabel('Token').fill('wcc_00000000_nobody')
  await page.getByRole('button', { name: 'Log in' }).click()
  await expect(page.getByRole('alert')).toContainText('This token is not known here')
  await page.getByLabel('Token').fill(token)
  await page.getByRole('button', { name: 'Log in' }).click()
  await expect(page.getByRole('heading', { level: 1, name: 'web1' })).toBeVisible() // the link that one came by
})

test('a member sees its organisation, and is told why it may not', async ({ page, request }) => {
  const [design, others, ann, bob, draft, sketches] = ['design', 'others', 'ann', 'bob', 'draft', 'sketches'].map(fresh) as [string, string, string, string, string, string]
  for (const [owner, user] of [[design, ann], [others, bob]]) {
    await api(request, 'POST', '/v1/owners', { name: owner, spec: {} })
    await api(request, 'POST', '/v1/users', { name: user, owner, spec: {} })
  }
  await api(request, 'POST', '/v1/networks', { name: sketches, owner: design, spec: {} })
  await api(request, 'POST', '/v1/vms', { name: draft, owner: design, spec: { image: 'tiny', network: sketches, cpus: 1, memory_mib: 128, power: 'off' } })
  const { token: annsToken } = await api(request, 'POST', `/v1/users/${ann}/tokens`, {})
  const { token: bobsToken } = await api(request, 'POST', `/v1/users/${bob}/tokens`, {})

  await login(page, annsToken)
  await page.goto('/vms')
  await expect(page.getByRole('link', { name: draft, exact: true })).toBeVisible()
  await expect(page.getByRole('link', { name: 'web1', exact: true })).toHaveCount(0)
  await expect(page.getByRole('link', { name: 'Hosts' })).toHaveCount(0)
  await page.goto('/create/vms')
  await page.getByRole('textbox', { name: /^Name/ }).fill('theirs')
  await page.getByRole('combobox', { name: 'Image', exact: true }).selectOption('tiny')
  await page.getByRole('combobox', { name: 'Network', exact: true }).selectOption(sketches)
  await page.getByLabel('Organisation').fill(others)
  await page.getByRole('textbox', { name: /^Name/ }).press('Enter')
  await expect(page.getByRole('alert').first()).toBeVisible()
  await expect(page.getByText(`owned by "${others}"`).first()).toBeVisible()

  await page.context().clearCookies()
  await login(page, bobsToken)
  await page.goto(`/vms/${draft}`)
  await expect(page.getByRole('heading', { level: 1 })).toHaveText('Nothing is here')
})
