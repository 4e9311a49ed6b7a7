// The serial console of a VM that runs at another organisation's site.
import { expect, test } from '@playwright/test'
import { login } from './base.ts'

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
