// Checks the page's words: both languages have all messages, with the same parameters; each that code names is there, each
// that is there is named; and no sentence is in code.
import { readFileSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { parse } from 'svelte/compiler'

const src = new URL('../src/', import.meta.url).pathname
const read = (language) => JSON.parse(readFileSync(join(src, `messages/${language}.json`), 'utf8'))
const en = read('en')
const ja = read('ja')
const faults = []

const base = (key) => key.replace(/\.(one|other)$/, '')
const params = (text) => [...new Set(text.match(/\{\w+\}/g) ?? [])].sort().join(' ')

for (const key of Object.keys(en)) {
  // Japanese has no singular.
  const counted = key.endsWith('.one') && `${base(key)}.other` in en
  if (!(key in ja) && !counted) faults.push(`ja.json has no ${key}`)
  if (key in ja && params(en[key]) !== params(ja[key])) faults.push(`${key} has ${params(en[key]) || 'no parameters'} in English, ${params(ja[key]) || 'none'} in Japanese`)
}
for (const key of Object.keys(ja)) if (!(key in en)) faults.push(`en.json has no ${key}`)

// Groups whose keys are made of words of the API, or of a list in code.
const groups = ['state', 'bulk_state', 'quota', 'role', 'reclaim', 'power', 'pool', 'origin', 'job', 'step', 'settings', 'connection', 'console', 'display', 'editor', 'level', 'finding', 'change', 'source', 'outcome']
const code = []
const files = readdirSync(src, { recursive: true }).filter((f) => /\.(svelte|ts)$/.test(f))
for (const file of files) code.push(readFileSync(join(src, file), 'utf8'))
const all = code.join('\n')
for (const key of Object.keys(en)) {
  const named = all.includes(`'${key}'`) || all.includes(`'${base(key)}'`)
  if (!named && !groups.some((g) => key.startsWith(`${g}.`))) faults.push(`${key} is used nowhere`)
}

const letters = /\p{L}{2,}/u
const spoken = ['aria-label', 'title', 'alt', 'placeholder', 'aria-description', 'aria-valuetext']

/** What a person would read of a component's markup. */
function walk(node, file, inside) {
  if (node === null || typeof node !== 'object') return
  if (Array.isArray(node)) return node.forEach((n) => walk(n, file, inside))
  if (node.type === 'RegularElement') inside = node.name
  if (node.type === 'Text' && inside !== 'style' && inside !== 'attribute' && !['kbd', 'pre', 'code'].includes(inside) && letters.test(node.data)) faults.push(`${file}: the text “${node.data.trim()}” belongs into the messages`)
  if (node.type === 'StyleDirective') return
  if (node.type === 'Attribute') {
    const text = Array.isArray(node.value) ? node.value.filter((v) => v.type === 'Text').map((v) => v.data).join('') : ''
    if (spoken.includes(node.name) && / |[A-Z]/.test(text) && letters.test(text)) faults.push(`${file}: ${node.name}="${text}" belongs into the messages`)
    return walk(node.value, file, 'attribute')
  }
  for (const [key, value] of Object.entries(node)) if (key !== 'css' && key !== 'instance' && key !== 'module') walk(value, file, inside)
}
for (const file of files.filter((f) => f.endsWith('.svelte'))) walk(parse(readFileSync(join(src, file), 'utf8'), { modern: true }).fragment, file, '')

if (faults.length) {
  console.error(faults.join('\n'))
  process.exit(1)
}
console.log(`${Object.keys(en).length} messages in two languages`)
