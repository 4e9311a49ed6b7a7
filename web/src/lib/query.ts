// The language of the search fields: free words, and qualifiers such as state:running,stopped or -owner:lab1. All must
// hold. A value may have * in it.

export interface Term {
  key: string // '': a free word
  values: string[] // any of them
  not: boolean
}

export interface Fault {
  text: string
  why: 'unknown' | 'empty'
}

export interface Query {
  terms: Term[]
  faults: Fault[]
}

const word = /(-?)(?:([a-z]+):)?(?:"([^"]*)"?|(\S+))?/y

/** Reads a query. keys are the qualifiers that there are. What is wrong is told, and left out. */
export function parse(text: string, keys: readonly string[]): Query {
  const q: Query = { terms: [], faults: [] }
  for (let at = 0; at < text.length; ) {
    if (/\s/.test(text[at]!)) {
      at++
      continue
    }
    word.lastIndex = at
    const m = word.exec(text)
    if (!m || m[0] === '') {
      at++
      continue
    }
    at = word.lastIndex
    const [all, minus, key = '', quoted, plain] = m
    const value = quoted ?? plain ?? ''
    if (key && !keys.includes(key)) {
      q.faults.push({ text: all, why: 'unknown' })
      continue
    }
    const values = (key && quoted === undefined ? value.split(',') : [value]).filter((v) => v !== '')
    if (values.length === 0) {
      q.faults.push({ text: all, why: 'empty' })
      continue
    }
    q.terms.push({ key, values: values.map((v) => v.toLowerCase()), not: minus === '-' })
  }
  return q
}

/** What a query is held against. */
export interface Subject {
  text: string // lower case: where free words are looked for
  facet: (key: string) => string[] | undefined
  labels: Record<string, string>
}

type Test = (s: Subject) => boolean

/** Makes one test of a query, so that a list of many is filtered quickly. */
export function compile(q: Query): Test {
  const tests = q.terms.map(testOf)
  return (s) => tests.every((t) => t(s))
}

function testOf(t: Term): Test {
  const any = t.key === '' ? t.values.map(free) : t.key === 'label' ? t.values.map(label) : t.values.map((v) => facet(t.key, v))
  return (s) => any.some((f) => f(s)) !== t.not
}

/** Tells whether a text is a value, which may have * in it. */
function like(value: string): (text: string) => boolean {
  if (!value.includes('*')) return (text) => text === value
  const pattern = value
    .split('*')
    .map((part) => part.replace(/[\\^$.|?+()[\]{}]/g, '\\$&'))
    .join('.*')
  const re = new RegExp(`^${pattern}$`, 's')
  return (text) => re.test(text)
}

function free(value: string): Test {
  if (!value.includes('*')) return (s) => s.text.includes(value)
  const match = like(`*${value}*`)
  return (s) => match(s.text)
}

function facet(key: string, value: string): Test {
  const match = like(value)
  return (s) => s.facet(key)?.some((f) => match(f.toLowerCase())) ?? false
}

/** A label's term: KEY=VALUE, KEY!=VALUE, KEY or !KEY, as the API has them. */
function label(value: string): Test {
  const m = /^(!?)([^=!]+)(?:(!?=)(.*))?$/.exec(value)
  if (!m) return () => false
  const [, absent, key, operator, wanted = ''] = m
  const match = like(wanted)
  return (s) => {
    const found = Object.entries(s.labels).find(([k]) => k.toLowerCase() === key)
    if (!operator) return absent ? !found : !!found
    const holds = !!found && match(found[1].toLowerCase())
    return operator === '=' ? holds : !holds
  }
}
