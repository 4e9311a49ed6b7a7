// A VM before it is created, and actions on many, on the federation of examples/flow.lab.
import AxeBuilder from '@axe-core/playwright'
import { expect, test, type APIRequestContext, type Page } from '@playwright/test'
import { api, fresh, login, token } from './base.ts'

/** VMs with a label of their own; they do not run, if not wanted otherwise. */
async function make(request: APIRequestContext, label: string, n: number, power = 'off'): Promise<string[]> {
  const like = await api(request, 'GET', '/v1/vms/web1')
  const names = Array.from({ length: n }, (_, i) => fresh(`${label}${i + 1}`))
  const spec = { cpus: 1, memory_mib: 64, image: like.spec.image, network: like.spec.network, power }
  for (const name of names) await api(request, 'POST', '/v1/vms', { name, owner: like.owner, labels: { group: label }, spec })
  return names
}

/** A field of a form. */
const field = (page: Page, path: string) => page.locator(`[id="f-${path}"]`)

test('where a new VM would go is said while it is written', async ({ page }) => {
  await login(page)
  await page.goto('/create/vms')
  const preview = page.getByRole('region', { name: 'Where would it go?' })
  await expect(preview).toContainText('It would go to tokyo/')
  await expect(preview).toContainText('possible, too')
  await expect(preview).toContainText('borrow from it first')
})

test('the last answer wins, however late those before it come', async ({ page }) => {
  await login(page)
  await page.goto('/create/vms')
  const preview = page.getByRole('region', { name: 'Where would it go?' })
  await expect(preview).toContainText('It would go to')
  let held: (() => void) | undefined
  await page.route('**/v1/vms/dry-run', async (route) => {
    if (route.request().postData()?.includes('900000')) await new Promise<void>((go) => (held = go))
    await route.continue().catch(() => {})
  })
  await page.getByLabel('Memory (MiB)').fill('900000')
  await expect.poll(() => !!held).toBe(true)
  await page.getByLabel('Memory (MiB)').fill('128')
  await expect(preview).toHaveAttribute('aria-busy', 'false')
  held!()
  await expect(preview).toContainText('It would go to tokyo/')
  await expect(preview).not.toContainText('Nobody has room')
})

test('what it would take of quota and loan is said before it is created', async ({ page, request }) => {
  const owner = fresh('small')
  await api(request, 'POST', '/v1/owners', { name: owner, spec: { quota: { cpus: 6 } } })
  await login(page)
  await page.goto('/create/vms')
  const preview = page.getByRole('region', { name: 'Where would it go?' })
  await field(page, 'owner').fill(owner)
  await field(page, 'spec.cpus').fill('3')
  await field(page, 'spec.place').fill('osaka')
  await expect(preview).toContainText('It would go to osaka')
  await expect(preview.getByRole('heading', { name: `Quota of ${owner}` })).toBeVisible()
  await expect(preview).toContainText(/→ 3 CPUs of 6 CPUs/)
  await expect(preview.getByRole('heading', { name: /^Loan .* from osaka$/ })).toBeVisible()
  await expect(preview).toContainText(/→ 3 CPUs of 4 CPUs/)
  // More than the quota is refused before anything is created.
  await field(page, 'spec.cpus').fill('7')
  await expect(preview).toContainText('It would be refused')
  await expect(page.getByRole('alert').filter({ hasText: 'quota' }).first()).toBeVisible()
})

test('what is wrong with a new VM is said beside its fields, and its disks are kept', async ({ page, request }) => {
  await login(page)
  await page.goto('/create/vms')
  await field(page, 'name').fill('Not A Name')
  const memory = field(page, 'spec.memory_mib')
  await memory.fill('3')
  await page.getByRole('button', { name: 'Create the VM' }).click()
  await expect(field(page, 'name')).toHaveAttribute('aria-invalid', 'true')
  await expect(memory).toHaveAttribute('aria-invalid', 'true')
  await expect(memory).toHaveAccessibleDescription(/64/)
  await expect(page).toHaveURL(/create\/vms/)
  const disks = field(page, 'spec.disks')
  await disks.fill('data=much\nroot=1')
  await page.getByRole('button', { name: 'Create the VM' }).click()
  await expect(disks).toHaveAttribute('aria-invalid', 'true')
  // Mended, it is created.
  const name = fresh('disks')
  await field(page, 'name').fill(name)
  await memory.fill('64')
  await disks.fill('data=1')
  await page.getByRole('button', { name: 'Create the VM' }).click()
  await expect(page).toHaveURL(new RegExp(`/vms/${name}$`))
  await expect(page.getByRole('region', { name: 'Facts' })).toContainText('data 1 GiB')
  // A disk that is taken out of the form is destroyed only after a question that names it.
  await page.goto(`/vms/${name}/edit`)
  await disks.fill('')
  await page.getByRole('button', { name: 'Save' }).click()
  const question = page.getByRole('dialog', { name: 'Delete the disks data?' })
  await expect(question.getByRole('button', { name: 'Delete' })).toBeDisabled()
  await question.getByRole('button', { name: 'Cancel' }).click()
  expect((await api(request, 'GET', `/v1/vms/${name}`)).spec.disks).toHaveLength(1)
  await page.getByRole('button', { name: 'Save' }).click()
  await question.getByRole('textbox').fill('data')
  await question.getByRole('button', { name: 'Delete' }).click()
  await expect(page).toHaveURL(new RegExp(`/vms/${name}$`))
  expect((await api(request, 'GET', `/v1/vms/${name}`)).spec.disks ?? []).toHaveLength(0)
})

test('many VMs are started by a job that goes on when the page is left', async ({ page, request }) => {
  const names = await make(request, 'many', 3)
  await login(page)
  await page.goto('/vms?q=label:group=many')
  await expect(page.getByRole('row')).toHaveCount(4)
  await page.getByRole('checkbox', { name: 'Select all' }).check()
  await page.getByRole('group', { name: 'Actions on what is selected' }).getByRole('button', { name: 'Start' }).click()
  const dialog = page.getByRole('dialog', { name: 'Result for each VM' })
  await expect(dialog).toContainText('started by')
  await dialog.getByRole('link', { name: "The job's page" }).click()
  await expect(page).toHaveURL(/jobs\/bulk-/)
  const job = page.url()
  await page.goto('/')
  await page.goto(job)
  const results = page.getByRole('region', { name: 'Result for each VM' })
  for (const name of names) await expect(results).toContainText(name)
  await expect(page.getByText('3 of 3 done')).toBeVisible({ timeout: 150_000 })
  const { violations } = await new AxeBuilder({ page }).analyze()
  expect(violations.filter((v) => v.impact === 'serious' || v.impact === 'critical').map((v) => v.id)).toEqual([])
})

test('many VMs are rebooted, stopped and deleted after a question that names them', async ({ page, request }) => {
  const names = await make(request, 'round', 2, 'on')
  await login(page)
  await page.goto('/vms?q=label:group=round')
  await expect(page.getByRole('row').filter({ hasText: 'running' })).toHaveCount(2)
  const results = page.getByRole('dialog', { name: 'Result for each VM' })
  const doIt = async (action: string, answer?: string) => {
    await page.getByRole('checkbox', { name: 'Select all' }).check()
    await page.getByRole('group', { name: 'Actions on what is selected' }).getByRole('button', { name: action }).click()
    const question = page.getByRole('dialog').filter({ hasText: names[0]! }).filter({ hasText: names[1]! })
    const sure = question.getByRole('button', { name: action })
    if (answer) {
      await expect(sure).toBeDisabled()
      await question.getByRole('textbox').fill(answer)
    }
    await sure.click()
    await expect(results.getByText('2 of 2 done')).toBeVisible({ timeout: 60_000 })
    await results.getByRole('button', { name: 'Close' }).click()
  }
  await doIt('Reboot')
  await doIt('Stop')
  await expect(page.getByRole('row').filter({ hasText: 'stopped' })).toHaveCount(2)
  await doIt('Delete', '2')
  await expect(page.getByText(/^Nothing matches/)).toBeVisible()
  for (const name of names) {
    await expect.poll(async () => (await request.get(`/v1/vms/${name}`, { headers: { Authorization: `Bearer ${token}` } })).status()).toBe(404)
  }
})

test('stopped VMs move, and what cannot be done to a VM is said beside it', async ({ page, request }) => {
  const names = await make(request, 'still', 2, 'on')
  await login(page)
  await page.goto('/vms?q=label:group=still')
  await expect(page.getByRole('row').filter({ hasText: 'running' })).toHaveCount(2)
  for (const name of names) await request.patch(`/v1/vms/${name}`, { data: { spec: { power: 'off' } }, headers: { Authorization: `Bearer ${token}`, 'Content-Type': 'application/merge-patch+json' } })
  const move = async (to: string) => {
    await page.getByRole('checkbox', { name: 'Select all' }).check()
    await page.getByRole('group', { name: 'Actions on what is selected' }).getByRole('button', { name: 'Move' }).click()
    await page.getByLabel('Where to').selectOption(to)
    await page.getByRole('dialog').getByRole('button', { name: 'Move' }).click()
  }
  const results = page.getByRole('dialog', { name: 'Result for each VM' })
  await expect(page.getByRole('row').filter({ hasText: 'stopped' })).toHaveCount(2)
  await move('nara')
  await expect(results.getByText('nothing is borrowed from nara').first()).toBeVisible()
  await expect(results.getByText('2 failed')).toBeVisible()
  await results.getByRole('button', { name: 'Close' }).click()
  await move('osaka')
  await expect(results.getByText('2 of 2 done')).toBeVisible()
  await expect(results.getByText('failed')).toHaveCount(0)
  await results.getByRole('button', { name: 'Close' }).click()
  for (const name of names) await expect(page.getByRole('row').filter({ hasText: name })).toContainText('osaka/')
})

test('a site that is lost is told by the watch', async ({ page }) => {
  const asked: string[] = []
  page.on('request', (r) => r.url().includes('/v1/sites') && asked.push(r.url()))
  await login(page)
  await expect(page.getByText('Live', { exact: true })).toBeVisible()
  expect(asked.length).toBe(1) // with the other lists, and never again
  const watch = await page.evaluate(async () => {
    const answer = await fetch('/v1/watch?kinds=sites&from=1')
    return answer.status
  })
  expect([200, 409]).toContain(watch)
})
