// Faults that axe finds: of contrast, names, roles, order.
import AxeBuilder from '@axe-core/playwright'
import { expect, test, type Page } from '@playwright/test'
import { login, pages } from './base.ts'

/** axe, which does not make a list of all that is right: that is the longer one. */
const axe = (page: Page) => new AxeBuilder({ page }).options({ resultTypes: ['violations'] })

test('no page has a serious fault for who cannot see, or not well: light and dark', async ({ page }) => {
  test.setTimeout(20 * 60_000) // all pages
  await page.emulateMedia({ reducedMotion: 'reduce' })
  await login(page)
  const found: string[] = []
  for (const path of pages) {
    await page.emulateMedia({ colorScheme: 'light' })
    await page.goto(path)
    await expect(page.locator('main h1')).toBeVisible()
    await expect(page.getByText('Live', { exact: true })).toBeVisible()
    const light = (await axe(page).analyze()).violations
    await page.emulateMedia({ colorScheme: 'dark' })
    const dark = (await axe(page).withRules('color-contrast').analyze()).violations
    for (const [colours, violations] of [['light', light], ['dark', dark]] as const)
      for (const v of violations) if (v.impact === 'serious' || v.impact === 'critical') found.push(`${path}, ${colours}: ${v.id}: ${v.help}: ${v.nodes.map((n) => n.html).join(' ').slice(0, 300)}`)
  }
  expect(found).toEqual([])
})
