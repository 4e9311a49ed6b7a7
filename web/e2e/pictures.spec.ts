// Pictures of the pages, at 360 and 1440 pixels, light and dark, in both languages.
import { expect, test } from '@playwright/test'
import { login, shots } from './base.ts'

const pages = ['/', '/vms', '/vms/web1', '/vms/web1/move', '/vms/web1/usage', '/ledger', '/vms/web1/edit', '/create/vms', '/jobs', '/events', '/networks/blue', '/images', '/loans', '/offers', '/sites/tokyo', '/hosts', '/hosts/h1', '/users/admin', '/notices', '/create/notices', '/audit', '/doctor', '/settings']

for (const language of ['en-GB', 'ja-JP']) {
  test(`pictures of the pages, on which nothing is wider than the window: ${language.slice(0, 2)}`, async ({ browser }) => {
    test.setTimeout(20 * 60_000) // all pages
    const context = await browser.newContext({ locale: language, timezoneId: 'Asia/Tokyo' })
    const page = await context.newPage()
    await login(page)
    for (const path of pages) {
      await page.goto(path)
      await expect(page.locator('main h1')).toBeVisible()
      for (const width of [1440, 360]) {
        await page.setViewportSize({ width, height: 900 })
        expect(await page.evaluate(() => document.querySelector('main')!.scrollWidth - document.querySelector('main')!.clientWidth), `${path} at ${width}`).toBeLessThanOrEqual(0)
        for (const colours of ['light', 'dark'] as const) {
          await page.emulateMedia({ colorScheme: colours })
          await page.screenshot({ path: `${shots}/${path === '/' ? 'overview' : path.slice(1).replaceAll('/', '-')}-${width}-${colours}-${language.slice(0, 2)}.png` })
        }
      }
    }
    await context.close()
  })
}
