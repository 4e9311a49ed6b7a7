// Images: one is uploaded, with its progress.
import { expect, test } from '@playwright/test'
import { fresh, login } from './base.ts'

test('an image is uploaded, with its progress', async ({ page }) => {
  const name = fresh('disk')
  await login(page)
  await page.goto('/create/images')
  await page.getByRole('textbox', { name: /^Name/ }).fill(name)
  await page.getByLabel('Format').selectOption('raw')
  await page.getByRole('button', { name: 'Create' }).click()
  await expect(page.getByRole('heading', { level: 1, name })).toBeVisible()
  // Such a slow way that its progress can be seen.
  const devtools = await page.context().newCDPSession(page)
  await devtools.send('Network.enable')
  await devtools.send('Network.emulateNetworkConditions', { offline: false, latency: 0, downloadThroughput: -1, uploadThroughput: 4 << 20 })
  await page.getByLabel('File').setInputFiles({ name: 'disk.raw', mimeType: 'application/octet-stream', buffer: Buffer.alloc(16 << 20, 'widecloud ') })
  await page.getByRole('button', { name: 'Upload the content' }).click()
  await expect(page.getByText(/of 1[67](\.\d)? M.?B \([1-9]\d? %\)/)).toBeVisible()
  await expect(page.getByText(`${name} was uploaded`)).toBeVisible()
  await expect(page.getByRole('definition').first()).toContainText('ready')

  await page.getByRole('button', { name: 'Delete' }).click()
  await page.getByRole('dialog').getByRole('button', { name: 'Delete' }).click()
  await expect(page.getByRole('heading', { level: 1 })).toHaveText('Nothing is here')
})
