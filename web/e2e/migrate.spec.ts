// Migrations between organisations.
import { expect, test } from '@playwright/test'
import { login } from './base.ts'

test('a VM moves to another site, and a report stays', async ({ page }) => {
  await login(page)
  await page.goto('/vms/web1/move')
  await page.getByRole('button', { name: 'Move to osaka' }).click()
  await expect(page.getByRole('heading', { name: 'Move: web1 → osaka' })).toBeVisible()
  await expect(page.getByRole('link', { name: 'Move of web1: done' })).toBeVisible({ timeout: 150_000 })
  await page.getByRole('link', { name: 'Move of web1: done' }).click()
  await expect(page.getByRole('list', { name: 'Steps' })).toContainText('runs at the target')
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
