// What the page is like with a large site, in Debian's Chromium: node bench.mjs URL TOKEN SECONDS. It is a part of
// `make bench-page` (internal/control/bench), which makes the site. On its standard output is a JSON object a line: figures,
// and {"load":true} when the changes are to begin, which then last for so many seconds.
import { chromium } from '@playwright/test'

const [url, token, seconds] = [process.argv[2], process.argv[3], Number(process.argv[4])]
const executablePath = process.env.PAGE_BROWSER ?? '/usr/bin/chromium'
const say = (line) => console.log(JSON.stringify(line))
const figure = (name, value, unit) => say({ name: `page.${name}`, value, unit })
const sleep = (ms) => new Promise((r) => setTimeout(r, ms))

/** Adds the median and the 99th of 100. */
function spread(name, all) {
  const sorted = [...all].sort((a, b) => a - b)
  const at = (p) => sorted[Math.min(sorted.length - 1, Math.floor((sorted.length * p) / 100))]
  if (sorted.length === 0) throw new Error(`${name}: nothing was measured`)
  figure(`${name}_p50_ms`, at(50), 'ms')
  figure(`${name}_p99_ms`, at(99), 'ms')
  return { p50: at(50), p99: at(99) }
}

const browser = await chromium.launch({
  executablePath,
  args: ['--no-sandbox', '--enable-precise-memory-info'],
  env: { ...process.env, LC_ALL: 'C', DBUS_SYSTEM_BUS_ADDRESS: 'disabled:' }, // playwright.config.ts tells why
})
const context = await browser.newContext({ viewport: { width: 1440, height: 900 }, locale: 'en-GB', baseURL: url })
await context.addInitScript(() => {
  localStorage.setItem('widecloud', JSON.stringify({ columns: { vms: ['state', 'place', 'owner', 'labels', 'addresses'] } }))
  // From each key to the frame that shows what it has done.
  window.keys = []
  addEventListener('keydown', (e) => {
    addEventListener('input', () => requestAnimationFrame(() => {
      const after = new MessageChannel()
      after.port1.onmessage = () => window.keys.push(performance.now() - e.timeStamp)
      after.port2.postMessage(0)
    }), { once: true })
  }, true)
})
const page = await context.newPage()
page.setDefaultTimeout(120_000)
const devtools = await context.newCDPSession(page)
await devtools.send('HeapProfiler.enable')
await devtools.send('Network.enable')

async function heap() {
  await devtools.send('HeapProfiler.collectGarbage')
  const { usedSize } = await devtools.send('Runtime.getHeapUsage')
  return usedSize / 2 ** 20
}

async function ask(method, path, body) {
  const answer = await fetch(url + path, { method, body: body && JSON.stringify(body), headers: { Authorization: `Bearer ${token}`, 'Content-Type': method === 'PATCH' ? 'application/merge-patch+json' : 'application/json' } })
  if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${await answer.text()}`)
  return answer.json()
}

/** Types a search, one key after the other, and clears it again. */
async function search(text) {
  await page.getByRole('combobox', { name: 'Search this list' }).or(page.locator('.search input')).first().focus()
  await page.keyboard.type(text, { delay: 150 })
}

const found = () => page.locator('main p[role=status]').first().innerText()

/** How long each key of some searches takes; the slowest is named. */
async function filter() {
  const all = []
  for (const text of ['vm012', 'lab0007', 'state:running owner:lab0001 vm0']) {
    await page.evaluate(() => (window.keys = []))
    await search(text)
    const took = await page.evaluate(() => window.keys)
    all.push(...took.map((ms, i) => ({ ms, typed: text.slice(0, i + 1) })))
    await page.locator('.search input').fill('')
  }
  const slowest = all.reduce((a, b) => (b.ms > a.ms ? b : a))
  console.error(`        the slowest key of ${all.length}: ${slowest.ms.toFixed(0)} ms, after which "${slowest.typed}" was searched`)
  return all.map((k) => k.ms)
}

/** Scrolls through the list by screens, and sees how long each takes until its rows are there. */
const scroll = () => page.evaluate(async () => {
  const frame = () => new Promise(requestAnimationFrame)
  const table = document.querySelector('[role=table]')
  const took = []
  for (let i = 1; i <= 150; i++) {
    const begun = performance.now()
    table.scrollTop = i * 740
    for (;;) {
      await frame()
      const box = table.getBoundingClientRect()
      const cell = document.elementFromPoint(box.left + 120, box.bottom - 60)?.closest('[data-row]')
      if (cell && Number(cell.dataset.row) >= Math.floor(table.scrollTop / 38)) break
    }
    took.push(performance.now() - begun)
  }
  table.scrollTop = 0
  await frame()
  return took
})

/** A change of the first VM's label, and the time until its row shows it. */
async function event(n) {
  const label = `n${n}`
  await page.evaluate((text) => {
    window.seen = new Promise((done) => {
      const look = () => {
        if ([...document.querySelectorAll('[data-row="0"] .label b')].some((b) => b.textContent === text)) {
          const after = new MessageChannel()
          after.port1.onmessage = () => done(Date.now())
          after.port2.postMessage(0)
        } else requestAnimationFrame(look)
      }
      look()
    })
  }, label)
  const begun = Date.now()
  await ask('PATCH', '/v1/vms/vm00000', { labels: { probe: label } })
  const seen = await Promise.race([page.evaluate(() => window.seen), sleep(30_000).then(() => { throw new Error(`change ${n} was not shown within 30 s`) })])
  return seen - begun
}

try {
  let bytes = 0
  devtools.on('Network.loadingFinished', (e) => (bytes += e.encodedDataLength))
  await page.goto('/')
  await page.locator('input[name=token]').fill(token)
  figure('first_load_kb', bytes / 1000, 'kB')
  await page.keyboard.press('Enter')
  await page.locator('.shell main h1').waitFor()
  let begun = Date.now()
  await page.goto('/vms')
  await page.locator('[data-row="0"]').waitFor()
  figure('first_rows_ms', Date.now() - begun, 'ms')
  await page.locator('main p[role=status]', { hasText: /in all/ }).waitFor()
  figure('all_rows_ms', Date.now() - begun, 'ms')
  const all = (await found()).replaceAll(/\D/g, '')
  figure('vms', Number(all), 'count')

  await sleep(1000) // who types has read something first; meanwhile the page makes ready what a search needs
  const still = spread('filter', await filter())
  figure('filter_ms', still.p99, 'ms')
  await search('vm0001')
  const want = (await ask('GET', '/v1/vms?name=vm0001')).items.length
  const shown = await found()
  if (!shown.startsWith(`${want} of`)) throw new Error(`the list says "${shown}", the API has ${want} VMs`)
  await page.locator('.search input').fill('')
  const moved = spread('scroll', await scroll())
  figure('scroll_ms', moved.p99, 'ms')
  // The first organisation's VMs are first, which the changes leave alone.
  await page.goto('/vms?sort=owner')
  await page.locator('main p[role=status]', { hasText: /in all/ }).waitFor()
  await event(0)
  const before = await heap()
  figure('heap_start_mb', before, 'MB')

  say({ load: true })
  const times = []
  const typed = []
  const end = Date.now() + seconds * 1000
  let most = 0
  for (let n = 1; Date.now() < end; n++) {
    const begun = Date.now()
    times.push(await event(n))
    if (n % 30 === 15) typed.push(...(await filter()))
    if (n % 60 === 0) {
      const now = await heap()
      most = Math.max(most, now)
      console.error(`        ${Math.round((Date.now() - (end - seconds * 1000)) / 1000)} s of changes: heap ${now.toFixed(1)} MB, last change shown after ${times.at(-1)} ms`)
    }
    await sleep(Math.max(0, begun + 1000 - Date.now()))
  }
  const last = spread('event', times)
  figure('event_samples', times.length, 'count')
  if (typed.length) spread('filter_loaded', typed)
  const after = await heap()
  figure('heap_mb', after, 'MB')
  figure('heap_most_mb', Math.max(most, after), 'MB')
  void last
} finally {
  await browser.close()
}
