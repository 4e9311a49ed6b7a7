// The display of a VM in a browser, on the federation of examples/browser.lab: web2 runs at another organisation's site, on real hosts.
import AxeBuilder from '@axe-core/playwright'
import { expect, test, type APIRequestContext, type Page } from '@playwright/test'
import { api, login, shots } from './base.ts'

const connected = (page: Page) => expect(page.getByText('Connected. Click the picture to use keyboard and mouse there.')).toBeVisible()

/** How many points of the picture are not black. */
const lit = (page: Page) =>
  page.locator('.screen canvas').evaluate((c) => {
    const canvas = c as HTMLCanvasElement
    const { data } = canvas.getContext('2d')!.getImageData(0, 0, canvas.width, canvas.height)
    let n = 0
    for (let i = 0; i < data.length; i += 4) if (data[i]! + data[i + 1]! + data[i + 2]! > 60) n++
    return n
  })

/** Waits until web2 is at a site, and no job holds it. */
const moved = (request: APIRequestContext, site: string) =>
  expect
    .poll(async () => {
      const { status } = await api(request, 'GET', '/v1/vms/web2')
      return `${status.site} ${status.job ?? ''} ${status.phase}`
    }, { timeout: 150_000 })
    .toBe(`${site}  running`)

test('the display shows what the guest writes, and the guest hears what is typed', async ({ page }) => {
  const refused: string[] = []
  page.on('console', (m) => m.type() === 'error' && /Content Security Policy/.test(m.text()) && refused.push(m.text()))
  await login(page)
  await page.goto('/vms/web2/display')
  await connected(page)
  await expect.poll(() => lit(page)).toBeGreaterThan(100)

  const before = await lit(page)
  await page.locator('.screen canvas').click()
  await page.keyboard.type('help\n')
  await expect.poll(() => lit(page)).toBeGreaterThan(before + 100)
  const typed = await lit(page)
  await page.keyboard.press('Control+]')
  await expect(page.getByRole('button', { name: 'Full screen' })).toBeFocused()
  await page.getByText('Type text into the VM').click()
  await page.getByRole('textbox', { name: 'Text' }).fill('hostname\n')
  await page.getByRole('button', { name: 'Type it' }).click()
  await expect.poll(() => lit(page)).toBeGreaterThan(typed + 50)

  for (const scheme of ['light', 'dark'] as const) {
    await page.emulateMedia({ colorScheme: scheme })
    const found = await new AxeBuilder({ page }).exclude('.screen').analyze()
    expect(found.violations.filter((v) => v.impact === 'serious' || v.impact === 'critical').map((v) => `${v.id}: ${v.help}`)).toEqual([])
    for (const width of [1440, 360]) {
      await page.setViewportSize({ width, height: 900 })
      await page.screenshot({ path: `${shots}/display-${width}-${scheme}.png` })
    }
    await page.setViewportSize({ width: 1440, height: 900 })
  }
  expect(refused).toEqual([])
})

test('the display is connected to again where the VM has moved to', async ({ page, request }) => {
  await login(page)
  await page.goto('/vms/web2/display')
  await connected(page)
  const opened: string[] = []
  page.on('websocket', (ws) => ws.url().endsWith('/v1/vms/web2/display') && opened.push(ws.url()))
  const from = (await api(request, 'GET', '/v1/vms/web2')).status.site as string
  const to = from === 'osaka' ? 'tokyo' : 'osaka'
  await api(request, 'POST', '/v1/vms/web2/migrate', { target: to }) // as another user moves it: this page only sees it
  await moved(request, to)
  await expect.poll(() => opened.length, { timeout: 60_000 }).toBeGreaterThan(0)
  await connected(page)
  await expect.poll(() => lit(page)).toBeGreaterThan(100)
  await api(request, 'POST', '/v1/vms/web2/migrate', { target: from })
  await moved(request, from)
})
