// A site is lost and comes back, while a page is open that shows it. The script stops its controller and starts it.
import { expect, test } from '@playwright/test'
import { login, shots } from './base.ts'

test('a site that is lost is grey, with since when and why, and nobody waits for it', async ({ page }) => {
  await login(page)
  const osaka = page.locator('main li').filter({ has: page.getByRole('link', { name: 'osaka', exact: true }) }).filter({ hasText: 'reached' })
  await test.step('osaka is reached', () => expect(osaka.last()).not.toContainText('not reached'))
  await test.step('osaka is lost', async () => {
    await expect(osaka.last()).toContainText('not reached')
    await expect(osaka.last().locator('time')).toBeVisible() // since when
    await expect(page.getByRole('heading', { name: 'Needs attention' })).toBeVisible()
    await expect(osaka.first()).toContainText(/session|connect|answer/) // why
    await page.screenshot({ path: `${shots}/lost.png` })
    await page.getByRole('link', { name: 'VMs', exact: true }).first().click()
    await expect(page.getByRole('link', { name: 'web1', exact: true })).toBeVisible()
    await page.goBack()
    await expect(osaka.last()).toContainText('not reached')
  })
  await test.step('osaka is back', async () => {
    await expect(osaka).toHaveCount(1)
    await expect(osaka).not.toContainText('not reached')
  })
})
