// The federation at a glance.
import { expect, test } from '@playwright/test'
import { login } from './base.ts'

test('the overview shows the sites, and what each lends', async ({ page }) => {
  await login(page)
  for (const site of ['tokyo', 'osaka', 'nara']) await expect(page.locator('main').getByRole('link', { name: site, exact: true })).toBeVisible()
  await expect(page.getByText('Borrowed from others')).toBeVisible()
  await expect(page.getByText('Live', { exact: true })).toBeVisible()
})
