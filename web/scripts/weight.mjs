// Weighs what a browser fetches before it shows the first page: index.html, what it names, and what these import at once,
// with the words of one language. node weight.mjs DIST LIMIT
import { readFileSync } from 'node:fs'
import { dirname, join, normalize } from 'node:path'
import { gzipSync } from 'node:zlib'

const [dist, limit] = process.argv.slice(2)
const weights = new Map()

function weigh(path) {
  if (weights.has(path)) return
  const content = readFileSync(join(dist, path))
  weights.set(path, gzipSync(content, { level: 9 }).length)
  const text = content.toString()
  const found = path.endsWith('.html') ? text.matchAll(/(?:src|href)="\/([^"]+)"/g) : path.endsWith('.js') ? text.matchAll(/(?:from|^import|;import)\s*"(\.\/[^"]+)"/g) : []
  for (const [, name] of found) weigh(path.endsWith('.html') ? name : normalize(join(dirname(path), name)))
}

weigh('index.html')
// The words are fetched when the language is known.
const main = [...weights.keys()].find((p) => p.endsWith('.js'))
for (const [, name] of readFileSync(join(dist, main), 'utf8').matchAll(/"\.\/((?:ja)-[\w-]+\.js)"/g)) weigh(join(dirname(main), name))

const sum = [...weights.values()].reduce((a, b) => a + b, 0)
console.log(`figure page.first_load_kb ${(sum / 1000).toFixed(1)}`)
if (sum > Number(limit)) {
  console.error(`the first load weighs more than ${limit} bytes:`, Object.fromEntries(weights))
  process.exit(1)
}
