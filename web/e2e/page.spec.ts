// The page in a browser, on a federation of three sites with a VM web1 at tokyo, a network blue and hosts (federation.lab).
import AxeBuilder from '@axe-core/playwright'
import { expect, test, type APIRequestContext, type Page } from '@playwright/test'

const token = process.env.PAGE_TOKEN ?? ''
const shots = process.env.PAGE_SHOTS ?? 'shots'
const pages = ['/', '/vms', '/vms/web1', '/vms/web1/edit', '/vms/web1/move', '/create/vms', '/jobs', '/events', '/networks', '/networks/blue', '/create/networks', '/addresses',
  '/images', '/offers', '/loans', '/create/loans', '/guests', '/sites', '/sites/tokyo', '/peers', '/create/peers', '/hosts', '/hosts/h1', '/create/hosts', '/owners', '/users', '/users/admin', '/nowhere']

async function login(page: Page, secret = token) {
  await page.goto('/')
  await page.getByLabel('Token').fill(secret)
  await page.keyboard.press('Enter')
  await expect(page.getByRole('heading', { level: 1 })).toContainText('The federation')
}

/** Asks the API, as the command line does. */
async function api(request: APIRequestContext, method: string, path: string, data?: object) {
  const answer = await request.fetch(path, { method, data, headers: { Authorization: `Bearer ${token}` } })
  expect(answer.ok(), `${method} ${path}: ${await answer.text()}`).toBe(true)
  return answer.json()
}

const state = (page: Page, word: string, timeout = 120_000) => expect(page.locator('main h1 + [role=status]')).toContainText(word, { timeout })

test('a token that is not known is refused, with what to do', async ({ page }) => {
  await page.goto('/vms/web1')
  await page.getByLabel('Token').fill('wcc_00000000_nobody')
  await page.getByRole('button', { name: 'Log in' }).click()
  await expect(page.getByRole('alert')).toContainText('This token is not known here')
  await page.getByLabel('Token').fill(token)
  await page.getByRole('button', { name: 'Log in' }).click()
  await expect(page.getByRole('heading', { level: 1, name: 'web1' })).toBeVisible() // the link that one came by
})

test('the overview shows the sites, and what each lends', async ({ page }) => {
  await login(page)
  for (const site of ['tokyo', 'osaka', 'nara']) await expect(page.locator('main').getByRole('link', { name: site, exact: true })).toBeVisible()
  await expect(page.getByText('Borrowed from others')).toBeVisible()
  await expect(page.getByText('Live', { exact: true })).toBeVisible()
})

test('a VM is created by keyboard alone, searched for, and deleted', async ({ page }) => {
  await login(page)
  await page.keyboard.press('Control+k')
  await page.keyboard.type('new vm')
  await page.keyboard.press('Enter')
  await expect(page.getByRole('heading', { level: 1, name: 'New VM' })).toBeVisible()
  await page.getByRole('textbox', { name: /^Name/ }).focus()
  await page.keyboard.type('Not A Name')
  await page.keyboard.press('Enter')
  await expect(page.getByRole('alert').first()).toBeVisible()
  await page.getByRole('textbox', { name: /^Name/ }).fill('keys1')
  await page.getByLabel('Memory (MiB)').fill('128')
  await page.getByLabel('Labels').fill('made=here')
  await page.getByRole('textbox', { name: /^Name/ }).press('Enter')
  await expect(page.getByRole('heading', { level: 1, name: 'keys1' })).toBeFocused()
  await state(page, 'running')

  await page.keyboard.press('g')
  await page.keyboard.press('v')
  await expect(page.getByRole('heading', { level: 1, name: 'VMs' })).toBeFocused()
  await page.keyboard.press('/')
  await page.keyboard.type('state:running label:made=here')
  await expect(page.getByRole('row')).toHaveCount(2)
  await expect(page).toHaveURL(/q=state/)
  await page.getByRole('link', { name: 'keys1' }).press('Enter')

  await page.getByRole('button', { name: 'Delete' }).press('Enter')
  const sure = page.getByRole('dialog')
  await expect(sure).toContainText('Delete keys1?')
  await expect(sure.getByRole('button', { name: 'Delete' })).toBeDisabled()
  await page.keyboard.type('keys1')
  await page.keyboard.press('Enter')
  await expect(page.getByRole('heading', { level: 1 })).toHaveText('Nothing is here', { timeout: 120_000 })
})

test('two who edit the same VM lose nothing', async ({ page, request }) => {
  await login(page)
  await page.goto('/vms/web1/edit')
  await page.getByLabel('Labels').fill('tier=mine')
  await page.getByLabel('Labels').blur()
  await api(request, 'PUT', '/v1/vms/web1', { name: 'web1', labels: { tier: 'theirs' }, spec: (await api(request, 'GET', '/v1/vms/web1')).spec })
  await expect(page.getByText('Somebody has changed this since you began')).toBeVisible()
  await page.getByRole('button', { name: 'Save' }).click()
  await expect(page.getByRole('alert').first()).toContainText('Somebody else changed this meanwhile')
  await page.getByLabel('What to take for labels.tier').selectOption('theirs')
  await page.getByRole('button', { name: 'YAML' }).click()
  await expect(page.getByLabel('What will be sent')).toHaveValue(/tier: theirs/)
  await page.getByRole('button', { name: 'Save' }).click()
  await expect(page.getByText('web1 saved')).toBeVisible()
})

test('a VM moves to another site, and a report stays', async ({ page }) => {
  await login(page)
  await page.goto('/vms/web1/move')
  await page.getByRole('button', { name: 'Move to osaka' }).click()
  await expect(page.getByRole('heading', { name: 'Move: web1 → osaka' })).toBeVisible()
  await expect(page.getByRole('link', { name: 'Move of web1: done' })).toBeVisible({ timeout: 150_000 })
  await page.getByRole('link', { name: 'Move of web1: done' }).click()
  await expect(page.getByRole('list', { name: 'Steps' })).toContainText('runs at the target')
})

test('the serial console shows what the guest says, and the guest hears what is typed', async ({ page }) => {
  const refused: string[] = []
  page.on('console', (m) => m.type() === 'error' && /Content Security Policy/.test(m.text()) && refused.push(m.text()))
  await login(page)
  await page.goto('/vms/web2/console')
  await expect(page.getByText('Connected. What you type goes to the VM.')).toBeVisible()
  await page.keyboard.type('uptime\n')
  await expect(page.locator('.xterm')).toContainText('boot id')
  await page.keyboard.press('Control+]')
  await expect(page.getByRole('button', { name: 'Connect again' })).toBeFocused()
  expect(refused).toEqual([])
})

test('a migration that is cancelled leaves the VM where it is', async ({ page }) => {
  await login(page)
  await page.goto('/vms/web2/move')
  await page.getByRole('button', { name: 'Move to tokyo' }).click()
  await page.getByRole('button', { name: 'Cancel the job' }).click()
  const sure = page.getByRole('dialog')
  await expect(sure).toContainText('The VM keeps running where it is now')
  await sure.getByRole('button', { name: 'Cancel the job' }).click()
  await expect(page.getByRole('link', { name: 'Move of web2: cancelled' })).toBeVisible({ timeout: 60_000 })
  await expect(page.getByText('It is at osaka/h1.')).toBeVisible()
})

test('a member sees its organisation, and is told why it may not', async ({ page, request }) => {
  const owner = (await api(request, 'GET', '/v1/vms/web1')).owner
  await api(request, 'POST', '/v1/owners', { name: 'others', spec: {} })
  for (const [user, of] of [['ann', owner], ['bob', 'others']]) await api(request, 'POST', '/v1/users', { name: user, owner: of, spec: {} })
  const ann = await api(request, 'POST', '/v1/users/ann/tokens', {})
  const bob = await api(request, 'POST', '/v1/users/bob/tokens', {})

  await login(page, ann.token)
  await page.goto('/vms')
  await expect(page.getByRole('link', { name: 'web1', exact: true })).toBeVisible()
  await expect(page.getByRole('link', { name: 'Hosts' })).toHaveCount(0)
  await page.goto('/create/vms')
  await page.getByRole('textbox', { name: /^Name/ }).fill('theirs')
  await page.getByLabel('Organisation').fill('others')
  await page.getByRole('textbox', { name: /^Name/ }).press('Enter')
  await expect(page.getByRole('alert').first()).toBeVisible()
  await expect(page.getByText(/owned by "others"/).first()).toBeVisible()

  await page.context().clearCookies()
  await login(page, bob.token)
  await page.goto('/vms/web1')
  await expect(page.getByRole('heading', { level: 1 })).toHaveText('Nothing is here')
})

for (const colours of ['light', 'dark'] as const) {
  test(`no page has a serious fault for screen readers: ${colours}`, async ({ page }) => {
    await page.emulateMedia({ colorScheme: colours, reducedMotion: 'reduce' })
    await login(page)
    const found: string[] = []
    for (const path of pages) {
      await page.goto(path)
      await expect(page.locator('main h1')).toBeVisible()
      await expect(page.getByText('Live', { exact: true })).toBeVisible()
      const { violations } = await new AxeBuilder({ page }).analyze()
      for (const v of violations) if (v.impact === 'serious' || v.impact === 'critical') found.push(`${path}: ${v.id}: ${v.help}: ${v.nodes.map((n) => n.html).join(' ').slice(0, 300)}`)
    }
    expect(found).toEqual([])
  })
}

test('pictures of the pages', async ({ browser }) => {
  for (const width of [360, 1440]) {
    for (const colours of ['light', 'dark'] as const) {
      for (const language of ['en-GB', 'ja-JP']) {
        const context = await browser.newContext({ viewport: { width, height: 900 }, colorScheme: colours, locale: language, timezoneId: 'Asia/Tokyo' })
        const page = await context.newPage()
        await page.goto('/')
        await page.locator('input[name=token]').fill(token)
        await page.keyboard.press('Enter')
        await expect(page.locator('main h1')).toBeVisible()
        for (const path of ['/', '/vms', '/vms/web1', '/vms/web1/move', '/create/vms', '/jobs', '/hosts']) {
          await page.goto(path)
          await expect(page.locator('main h1')).toBeVisible()
          // Nothing is wider than the window.
          expect(await page.evaluate(() => document.querySelector('main')!.scrollWidth - document.querySelector('main')!.clientWidth), `${path} at ${width}`).toBeLessThanOrEqual(0)
          await page.screenshot({ path: `${shots}/${path.replaceAll('/', '_')}-${width}-${colours}-${language.slice(0, 2)}.png` })
        }
        await context.close()
      }
    }
  }
})
