// Faults that axe finds: of contrast, names, roles, order.
import AxeBuilder from '@axe-core/playwright'
import { expect, test } from '@playwright/test'
import { login, pages } from './base.ts'

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
    const light = (await new AxeBuilder({ page }).analyze()).violations
    await page.emulateMedia({ colorScheme: 'dark' })
    const dark = (await new AxeBuilder({ page }).withRules('color-contrast').analyze()).violations
    for (const [colours, violations] of [['light', light], ['dark', dark]] as const)
      for (const v of violations) if (v.impact === 'serious' || v.impact === 'critical') found.push(`${path}, ${colours}: ${v.id}: ${v.help}: ${v.nodes.map((n) => n.html).join(' ').slice(0, 300)}`)
  }
  expect(found).toEqual([])
})
