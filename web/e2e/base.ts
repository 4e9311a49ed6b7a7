// What the tests have in common. They run on the federation of examples/browser.lab, at the page of PAGE_SITE.
import { expect, type APIRequestContext, type Page } from '@playwright/test'

export const token = process.env.PAGE_TOKEN ?? ''
export const shots = process.env.PAGE_SHOTS ?? 'shots'
export const here = process.env.PAGE_SITE ?? 'tokyo'

/** Every page of the site's that there is; web1 is its VM, blue its network. */
export const pages = ['/', '/vms', '/vms/web1', '/vms/web1/usage', '/ledger', '/vms/web1/edit', '/vms/web1/move', '/create/vms', '/jobs', '/events', '/networks', '/networks/blue', '/create/networks', '/addresses',
  '/images', '/create/images', '/volumes', '/offers', '/loans', '/create/loans', '/guests', '/sites', '/sites/tokyo', '/peers', '/create/peers', '/hosts', '/hosts/h1', '/create/hosts', '/translators', '/translators/gw',
  '/owners', '/users', '/users/admin', '/notices', '/create/notices', '/audit', '/doctor', '/settings', '/nowhere']

export async function login(page: Page, secret = token) {
  await page.goto('/')
  await page.locator('input[name=token]').fill(secret)
  await page.keyboard.press('Enter')
  await expect(page.locator('.shell main h1')).toBeVisible()
}

/** Asks the API, as the command line does. */
export async function api(request: APIRequestContext, method: string, path: string, data?: object) {
  const answer = await request.fetch(path, { method, data, headers: { Authorization: `Bearer ${token}` } })
  expect(answer.ok(), `${method} ${path}: ${await answer.text()}`).toBe(true)
  return answer.json()
}

const run = Date.now().toString(36).slice(-4)
/** A name that nothing has, when tests run again on the same federation, too. */
export const fresh = (name: string) => `${name}-${run}`

/** The state that the heading of a page shows. */
export const state = (page: Page, word: string, timeout = 120_000) => expect(page.locator('main h1 + [role=status]')).toContainText(word, { timeout })
