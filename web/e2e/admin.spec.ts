// What an operator looks at: notices, audit log, doctor, settings.
import { expect, test, type APIRequestContext } from '@playwright/test'
import { api, fresh, login, token } from './base.ts'

/** A user's token; the user is made if it is not there. */
async function member(request: APIRequestContext, user: string, owner: string): Promise<string> {
  for (const [path, body] of [['/v1/owners', { name: owner, spec: {} }], ['/v1/users', { name: user, owner, spec: {} }]] as const) {
    await request.fetch(path, { method: 'POST', data: body, headers: { Authorization: `Bearer ${token}` } })
  }
  return (await api(request, 'POST', `/v1/users/${user}/tokens`, {})).token
}

const remove = (request: APIRequestContext, name: string) => request.fetch(`/v1/notices/${name}`, { method: 'DELETE', headers: { Authorization: `Bearer ${token}` } })

test('a notice is written, shown to everybody at once, and put away in one browser', async ({ page, browser, request }) => {
  const carol = await member(request, fresh('carol'), fresh('readers'))
  const works = fresh('works')
  const title = `Maintenance ${works}`
  const other = await browser.newContext()
  const reader = await other.newPage()
  await login(reader, carol)
  await login(page)

  await page.goto('/create/notices')
  await page.getByRole('textbox', { name: /^Name/ }).fill(works)
  await page.getByLabel('Title').fill(title)
  await page.getByRole('textbox', { name: /^Text/ }).fill('VMs stay up.\nThe page may be slow.')
  await page.getByLabel('Level').selectOption('urgent')
  await page.getByRole('button', { name: 'Create' }).click()

  const banner = reader.getByRole('region', { name: 'Notices of this site' })
  await expect(banner).toContainText(title)
  await expect(banner).toContainText('urgent')
  await banner.getByRole('button', { name: `Put away in this browser: ${title}` }).click()
  await expect(reader.getByText(title)).toHaveCount(0)
  await reader.reload()
  await expect(reader.getByText('Live', { exact: true })).toBeVisible()
  await expect(reader.getByText(title)).toHaveCount(0)
  await expect(page.getByRole('region', { name: 'Notices of this site' })).toContainText('VMs stay up.')

  await remove(request, works)
  await expect(page.getByRole('region', { name: 'Notices of this site' }).getByText(title)).toHaveCount(0)
  await other.close()
})

test('the audit log is searched, and shows what comes', async ({ page, request }) => {
  await login(page)
  await page.goto('/audit')
  await page.getByLabel('Operation').fill('create-owner')
  const seen = fresh('seen')
  await api(request, 'POST', '/v1/owners', { name: seen, spec: {} })
  const list = page.getByRole('list', { name: 'Audit log' })
  await expect(list.getByRole('listitem').first()).toContainText(`owners/${seen}`)
  await expect(list.getByRole('listitem').first()).toContainText('admin')
  await expect(page).toHaveURL(/verb=create-owner/)
  await page.getByLabel('Result').selectOption('refused')
  const again = await request.fetch('/v1/owners', { method: 'POST', data: { name: seen, spec: {} }, headers: { Authorization: `Bearer ${token}` } })
  expect(again.status()).toBe(409)
  await expect(list.getByRole('listitem').first()).toContainText('already-exists')
})

test('a member reads what is of its organisation, and no settings', async ({ page, request }) => {
  const carol = await member(request, fresh('carol'), fresh('readers'))
  await login(page, carol)
  await expect(page.getByRole('navigation').getByRole('link', { name: 'Settings' })).toHaveCount(0)
  await page.goto('/audit')
  await expect(page.getByRole('heading', { level: 1, name: 'Audit log' })).toBeVisible()
  await page.goto('/settings')
  await expect(page.getByRole('alert')).toContainText('only an admin')
})

test('the doctor and the overview say the same', async ({ page, request }) => {
  const found = (await api(request, 'GET', '/v1/doctor')).findings as { message: string }[]
  await login(page)
  if (found.length) await expect(page.getByRole('region', { name: 'Needs attention' })).toContainText(found[0]!.message)
  else await expect(page.getByRole('region', { name: 'Needs attention' })).toHaveCount(0)
  await page.goto('/doctor')
  await expect(page.locator('main').getByRole('status').first()).toContainText(found.length ? `${found.length} finding` : 'Nothing is wrong')
})

test('the settings are searched, and say where they are changed', async ({ page }) => {
  await login(page)
  await page.goto('/settings')
  await page.getByRole('searchbox').fill('audit.max_size')
  await expect(page.getByRole('region', { name: 'audit' })).toContainText('64MiB')
  await expect(page.getByRole('region', { name: 'audit' })).toContainText('site.toml')
})
