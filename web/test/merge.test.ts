import { describe, expect, test } from 'vitest'
import { at, merge, put, same } from '../src/lib/merge.ts'

describe('merge', () => {
  const base = { spec: { cpus: 1, memory: 512, sites: ['a'] }, labels: { app: 'web' } }

  test('what only I changed', () => {
    const mine = { ...base, spec: { ...base.spec, cpus: 2 } }
    expect(merge(base, mine, base)).toEqual({ merged: mine, differences: [] })
  })
  test('what only they changed is taken, and shown', () => {
    const theirs = { ...base, labels: { app: 'web', tier: 'front' } }
    expect(merge(base, base, theirs)).toEqual({
      merged: theirs, differences: [{ path: 'labels.tier', base: undefined, mine: undefined, theirs: 'front', conflict: false }],
    })
  })
  test('different fields are put together', () => {
    const m = merge(base, put(base, 'spec.cpus', 2), put(base, 'spec.memory', 1024))
    expect(m.merged).toEqual({ ...base, spec: { cpus: 2, memory: 1024, sites: ['a'] } })
    expect(m.differences.map((d) => [d.path, d.conflict])).toEqual([['spec.memory', false]])
  })
  test('the same field is a conflict, and mine until somebody chooses', () => {
    const m = merge(base, put(base, 'spec.cpus', 2), put(base, 'spec.cpus', 4))
    expect(at(m.merged, 'spec.cpus')).toBe(2)
    expect(m.differences).toEqual([{ path: 'spec.cpus', base: 1, mine: 2, theirs: 4, conflict: true }])
  })
  test('the same change by both is none', () => {
    const both = put(base, 'spec.cpus', 2)
    expect(merge(base, both, both).differences.filter((d) => d.conflict)).toEqual([])
  })
  test('what they removed is gone', () => {
    const m = merge(base, base, put(base, 'labels.app', undefined))
    expect(m.merged).toEqual({ ...base, labels: {} })
  })
  test('lists are whole', () => {
    const m = merge(base, put(base, 'spec.sites', ['a', 'b']), put(base, 'spec.sites', ['c']))
    expect(m.differences.map((d) => d.path)).toEqual(['spec.sites'])
  })
})

test('put and at', () => {
  expect(put({}, 'a.b.c', 1)).toEqual({ a: { b: { c: 1 } } })
  expect(put({ a: { b: 1, c: 2 } }, 'a.b', undefined)).toEqual({ a: { c: 2 } })
  expect(at({ a: [1] }, 'a.b')).toBeUndefined()
  expect(same({ a: [1, { b: null }] }, { a: [1, { b: null }] })).toBe(true)
  expect(same({ a: 1 }, { a: 1, b: 2 })).toBe(false)
})
