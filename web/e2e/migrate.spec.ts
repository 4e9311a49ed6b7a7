// Migrations between organisations: from the pre-flight to the report, and cancelled.
import { mkdirSync } from 'node:fs'
import { expect, test, type Page } from '@playwright/test'
import { login, shots } from './base.ts'

/** Takes a frame of the page again and again, until it is told to end: scripts/film makes a film of them. */
async function film(page: Page) {
  const dir = `${shots}/film`
  mkdirSync(dir, { recursive: true })
  let on = true
  const frames = (async () => {
    for (let n = 0; on && n < 300; n++) {
      await page.screenshot({ path: `${dir}/${String(n).padStart(3, '0')}.png` })
      await page.waitForTimeout(400) // of the film, not of the test
    }
  })()
  return async () => {
    on = false
    await frames
  }
}

test('a VM moves to another organisation: pre-flight, progress, report', async ({ page }) => {
  await login(page)
  await page.setViewportSize({ width: 1000, height: 720 })
  await page.goto('/vms/web1')
  await page.getByRole('link', { name: 'Move', exact: true }).click()
  // nara has lent too little: it says what lacks, and what can be done.
  const nara = page.getByRole('listitem').filter({ has: page.getByRole('heading', { name: 'nara', exact: true }) })
  await expect(nara).toContainText('not possible')
  await expect(nara).toContainText(/loan/)
  await expect(nara).toContainText('What to do:')
  await expect(nara.getByRole('button', { name: /Move to/ })).toHaveCount(0)
  const cut = await film(page)
  await page.getByRole('button', { name: 'Move to osaka' }).click()
  await expect(page.getByRole('heading', { name: 'Move: web1 → osaka' })).toBeVisible()
  await expect(page.getByRole('list', { name: 'Steps' }).locator('[aria-current=step]')).toContainText('copying memory and disk')
  await expect(page.getByRole('progressbar', { name: 'Memory' })).toBeVisible()
  await page.screenshot({ path: `${shots}/moving.png` })
  await expect(page.getByRole('link', { name: 'Move of web1: done' })).toBeVisible({ timeout: 150_000 })
  await cut()
  await page.getByRole('link', { name: 'Move of web1: done' }).click()
  await expect(page.getByRole('list', { name: 'Steps' })).toContainText('runs at the target')
  await expect(page.getByText('The VM stood still for')).toBeVisible()
  await page.screenshot({ path: `${shots}/moved.png` })
})

test('a migration that is cancelled, by keyboard alone, leaves the VM where it is', async ({ page }) => {
  await login(page)
  await page.keyboard.press('Control+k')
  await page.keyboard.type('web2')
  await page.keyboard.press('Enter')
  await expect(page.getByRole('heading', { level: 1, name: 'web2' })).toBeFocused()
  await page.keyboard.press('m')
  await page.getByRole('button', { name: 'Move to tokyo', exact: true }).press('Enter')
  await page.getByRole('button', { name: 'Cancel the job' }).press('Enter')
  const sure = page.getByRole('dialog')
  await expect(sure).toContainText('The VM keeps running where it is now')
  await sure.getByRole('button', { name: 'Cancel the job' }).press('Enter')
  await expect(page.getByRole('link', { name: 'Move of web2: cancelled' })).toBeVisible({ timeout: 60_000 })
  await expect(page.getByText('It is at osaka/h1.')).toBeVisible()
})
