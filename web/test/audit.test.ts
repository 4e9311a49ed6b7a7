import { describe, expect, it } from 'vitest'
import { merge, queryOf } from '../src/lib/audit.ts'
import { read } from '../src/lib/dismissed.ts'
import type { AuditEntry } from '../src/lib/types.ts'

const entry = (id: number) => ({ id, time: '2026-12-01T00:00:00Z', verb: `v${id}`, result: 'done' }) as AuditEntry

describe('entries of the audit log', () => {
  it('are there once, the newest first, however they come', () => {
    const list = merge(merge([], [entry(2), entry(1)]), [entry(4), entry(2), entry(3)])
    expect(list.map((e) => e.id)).toEqual([4, 3, 2, 1])
  })

  it('are asked for by what the search says', () => {
    const now = Date.parse('2026-12-01T12:00:00Z')
    expect(queryOf(new URLSearchParams('actor=peer:&hours=24&kind=vms'), now)).toEqual({
      actor: 'peer:', kind: 'vms', name: undefined, verb: undefined, result: undefined, since: '2026-11-30T12:00:00Z',
    })
    expect(queryOf(new URLSearchParams('hours=x'), now).since).toBeUndefined()
  })
})

describe('notices that were put away', () => {
  it('are read back, and nothing else is taken for them', () => {
    expect(read('["a@1","b@2"]')).toEqual(['a@1', 'b@2'])
    for (const text of [null, '', '{', '{"a":1}', '7']) expect(read(text)).toEqual([])
    expect(read('["a@1",7]')).toEqual(['a@1'])
    expect(read(JSON.stringify(Array.from({ length: 500 }, (_, i) => `${i}@1`)))).toHaveLength(200)
  })
})
