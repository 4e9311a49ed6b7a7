import { describe, expect, test } from 'vitest'
import { compile, parse, type Subject } from '../src/lib/query.ts'

const keys = ['owner', 'state', 'site', 'label', 'name']
const subject = (text: string, facets: Record<string, string[]> = {}, labels: Record<string, string> = {}): Subject => ({ text, labels, facet: (k) => facets[k] })

describe('parse', () => {
  test.each([
    ['', []],
    ['web db', [{ key: '', values: ['web'], not: false }, { key: '', values: ['db'], not: false }]],
    ['state:running,Stopped', [{ key: 'state', values: ['running', 'stopped'], not: false }]],
    ['-owner:lab1', [{ key: 'owner', values: ['lab1'], not: true }]],
    ['"two words"', [{ key: '', values: ['two words'], not: false }]],
    ['label:"a b,c"', [{ key: 'label', values: ['a b,c'], not: false }]],
    ['-', []],
    ['2001:db8::1', [{ key: '', values: ['2001:db8::1'], not: false }]],
  ])('%j', (text, terms) => expect(parse(text, keys).terms).toEqual(terms))

  test('faults are told, and the rest holds', () => {
    expect(parse('sate:running state: web', keys)).toEqual({
      terms: [{ key: '', values: ['web'], not: false }],
      faults: [{ text: 'sate:running', why: 'unknown' }, { text: 'state:', why: 'empty' }],
    })
  })

  test('it ends, whatever is typed', () => {
    const letters = ['-', ':', '"', ',', ' ', 'a', 'state', '*', '!', '=', '\n', '日']
    let seed = 1
    for (let i = 0; i < 20_000; i++) {
      let text = ''
      for (let n = 0; n < 8; n++) {
        seed = (seed * 1103515245 + 12345) % 2147483648
        text += letters[seed % letters.length]
      }
      const q = parse(text, keys)
      compile(q)(subject(text))
      for (const t of q.terms) expect(t.values.length, text).toBeGreaterThan(0)
    }
  })
})

describe('compile', () => {
  const vm = subject('web1\n10.99.0.2', { state: ['running'], site: ['tokyo'] }, { app: 'web', tier: '' })
  test.each([
    ['', true], ['web', true], ['web 10.99', true], ['db', false], ['-db', true], ['-web', false],
    ['state:running', true], ['state:stopped', false], ['state:stopped,running', true], ['-state:running', false],
    ['site:tok*', true], ['site:*yo', true], ['site:osaka', false], ['owner:lab1', false], ['-owner:lab1', true],
    ['label:app=web', true], ['label:app=w*', true], ['label:app=db', false], ['label:app!=db', true], ['label:other!=db', true],
    ['label:tier', true], ['label:app', true], ['label:!app', false], ['label:!other', true], ['w*1', true],
  ])('%j', (text, want) => expect(compile(parse(text, keys))(vm)).toBe(want))
})
