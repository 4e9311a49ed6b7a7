import { describe, expect, test } from 'vitest'
import { Collection } from '../src/lib/live.svelte.ts'
import type { Meta } from '../src/lib/types.ts'

const vm = (name: string, revision: number, uid = 'u'): Meta => ({ name, revision, uid })

/** A collection with web at revision 5. */
function collection(): Collection<Meta> {
  const c = new Collection<Meta>()
  c.reset(new Map([['web', vm('web', 5)]]))
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
