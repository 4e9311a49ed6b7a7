import { expect, test } from 'vitest'
import { keep, points, summary, thin } from '../src/lib/usage.ts'
import type { Sample } from '../src/lib/types.ts'

const begin = 1_800_000_000
const sample = (s: number, cpu = 1): Sample => ({ at: new Date((begin + s) * 1000).toISOString(), cpu, memory_bytes: 1, disk_read: 0, disk_written: 0, received: 0, sent: 0 })
const cpus = (p: { samples: (Sample | null)[] }) => p.samples.map((s) => s?.cpu ?? null)

test('fine samples follow coarse ones', () => {
  const kept = { coarse: [sample(300), sample(600), sample(900)], fine: [sample(890), sample(900), sample(910)] }
  const p = points(kept, 3600, begin + 910)
  expect(p.x.map((x) => x - begin)).toEqual([300, 600, 880, 890, 900, 910])
  expect(points(kept, 24 * 3600, begin + 910).x).toHaveLength(3)
})

test('a gap is a gap', () => {
  const p = points({ coarse: [], fine: [sample(10), sample(20), sample(80), sample(90)] }, 3600, begin + 100)
  expect(cpus(p)).toEqual([1, 1, null, 1, 1])
  expect(points({ coarse: [], fine: [sample(10), sample(21), sample(30)] }, 3600, begin + 100).samples).not.toContain(null)
})

test('what a host has said stays when the VM has left it', () => {
  let kept = keep({ fine: [], coarse: [] }, { recent: [sample(10, 1), sample(20, 2)], day: null })
  kept = keep(kept, { recent: [sample(20, 2), sample(30, 3)], day: [] })
  kept = keep(kept, { recent: [sample(70, 7)], day: [] }) // another host
  expect(cpus(points(kept, 3600, begin + 80))).toEqual([1, 2, 3, null, 7])
})

test('what is too old is not shown', () => {
  expect(points({ coarse: [sample(0), sample(4000)], fine: [] }, 3600, begin + 4000).x).toHaveLength(1)
})

test('a summary leaves gaps out', () => {
  expect(summary([1, null, 3])).toEqual({ last: 3, mean: 2, most: 3 })
  expect(summary([null])).toBeUndefined()
})

test('a table is thinned, with its ends', () => {
  const rows = Array.from({ length: 288 }, (_, i) => i)
  const few = thin(rows, 60)
  expect(few).toHaveLength(60)
  expect([few[0], few.at(-1)]).toEqual([0, 287])
  expect(thin([1, 2], 60)).toEqual([1, 2])
})
