import { describe, expect, test } from 'vitest'
import { Collection } from '../src/lib/live.svelte.ts'
import type { Meta } from '../src/lib/types.ts'

const vm = (name: string, revision: number, uid = 'u'): Meta => ({ name, revision, uid })

/** A collection with web at revision 5. */
function collection(): Collection<Meta> {
  const c = new Collection<Meta>()
  c.reset([vm('web', 5)])
  return c
}

describe('a change', () => {
  test.each([
    ['a newer one is taken', 'put', vm('web', 6), 6, [6]],
    ['an older one is not: the list was newer', 'put', vm('web', 4), 4, [5]],
    ['a newer deletion is taken', 'delete', vm('web', 5), 6, []],
    ['an older deletion is not', 'delete', vm('web', 3), 4, [5]],
    ['another of the same name is another', 'put', vm('web', 3, 'other'), 6, [3]],
  ])('%s', (_, type, object, revision, want) => {
    const c = collection()
    c.apply(type, object, revision)
    c.changed()
    expect(c.all.map((o) => o.revision)).toEqual(want)
  })

  test('what is replaced stays where it is, beside what comes and goes', () => {
    const c = new Collection<Meta>()
    c.reset(['web2', 'web10', 'app'].map((n) => vm(n, 1)))
    const before = c.all
    const seen = () => c.all.map((o) => `${o.name} ${o.revision}`)
    const step = (...changes: [string, Meta][]) => {
      for (const [type, o] of changes) c.apply(type, o, o.revision ?? 0)
      c.changed()
    }
    step(['put', vm('web10', 2)], ['put', vm('app', 2)])
    expect(seen()).toEqual(['app 2', 'web2 1', 'web10 2'])
    expect(before.map((o) => o.revision)).toEqual([1, 1, 1])
    step(['put', vm('web10', 3)], ['put', vm('web3', 3)], ['put', vm('app', 3)])
    expect(seen()).toEqual(['app 3', 'web2 1', 'web3 3', 'web10 3'])
    step(['put', vm('web3', 4)], ['delete', vm('app', 4)], ['put', vm('web10', 4)])
    expect(seen()).toEqual(['web2 1', 'web3 4', 'web10 4'])
    step(['delete', vm('web3', 5)], ['put', vm('web3', 6)], ['put', vm('web2', 5)])
    expect(seen()).toEqual(['web2 5', 'web3 6', 'web10 4'])
    step(['put', vm('gone', 7)], ['delete', vm('gone', 8)], ['put', vm('web3', 7)])
    expect(seen()).toEqual(['web2 5', 'web3 7', 'web10 4'])
  })

  test('the order is that of names, and the array the same while nothing changes', () => {
    const c = collection()
    c.apply('put', vm('app', 7), 7)
    c.changed()
    expect(c.all.map((o) => o.name)).toEqual(['app', 'web'])
    expect(c.all).toBe(c.all)
    expect(c.size).toBe(2)
    expect(c.get('app')?.revision).toBe(7)
  })
})
