import { defineConfig } from '@playwright/test'

// Where no D-Bus daemon runs, a thread of Chromium translates the error, which reads the environment while another thread
// writes it: 1 launch in 30 died of it on a busy machine. Nothing is translated in the locale C, and no bus is looked for.
const noBus = { LC_ALL: 'C', DBUS_SYSTEM_BUS_ADDRESS: 'disabled:', DBUS_SESSION_BUS_ADDRESS: 'disabled:' }

// The tests run on a federation that is up: PAGE_URL is a controller's address, PAGE_TOKEN an administrator's token.
// examples/browser.lab brings one up and runs them; docs/page.md has more.
export default defineConfig({
  testDir: 'e2e',
  workers: 1, // they share the federation
  fullyParallel: false,
  timeout: 300_000, // it may run beside other things
  expect: { timeout: 60_000 },
  reporter: [['list']],
  outputDir: 'test-results',
  use: {
    baseURL: process.env.PAGE_URL ?? 'http://[::1]:7646',
    locale: 'en-GB',
    timezoneId: 'Asia/Tokyo',
    viewport: { width: 1440, height: 900 },
    trace: 'retain-on-failure',
    launchOptions: {
      executablePath: process.env.PAGE_BROWSER ?? '/usr/bin/chromium',
      args: ['--no-sandbox'],
      env: { ...process.env, ...noBus },
    },
  },
})
