import { expect, test } from 'vitest'
import { capacityOf } from '../src/lib/federation.ts'
import { outlook, rawBytes, savings, starter, stepsOf } from '../src/lib/migration.ts'
import type { Host, Job, Loan } from '../src/lib/types.ts'

const job = (status: object, spec: object = {}) =>
  ({ name: 'j', spec: { type: 'migrate', object: 'vms/web', ...spec }, status: { state: 'running', progress: {}, ...status } }) as Job

const time = (second: number) => `2026-01-01T00:00:0${second}Z`

test('steps: those that were reached, the one now, those that follow', () => {
  const steps = stepsOf(job({ started: time(0), journal: [{ step: 'none', time: time(0) }, { step: 'checked', time: time(1) }, { step: 'copying', time: time(3) }] }))
  expect(steps.map((s) => [s.step, s.state, s.after])).toEqual([
    ['none', 'done', 0], ['checked', 'done', 1], ['copying', 'now', 3],
    ['copied', 'next', undefined], ['committed', 'next', undefined], ['switched', 'next', undefined], ['confirmed', 'next', undefined], ['done', 'next', undefined],
  ])
})

test('steps of what has ended: its journal', () => {
  const steps = stepsOf(job({ state: 'cancelled', started: time(0), journal: [{ step: 'copying', time: time(1) }, { step: 'undo', time: time(2), note: 'cancelled' }, { step: 'failed', time: time(3) }] }))
  expect(steps.map((s) => [s.step, s.state])).toEqual([['copying', 'done'], ['undo', 'done'], ['failed', 'done']])
})

test.each([
  [{ rate_bytes_per_second: 10, dirty_rate_bytes_per_second: 5 }, 'copying', 'ends'],
  [{ rate_bytes_per_second: 10, dirty_rate_bytes_per_second: 10 }, 'copying', 'grows'],
  [{ rate_bytes_per_second: 10 }, 'copying', 'ends'],
  [{}, 'copying', undefined],
  [{ rate_bytes_per_second: 10 }, 'switched', undefined],
])('outlook of %j at %s: %s', (progress, step, want) => expect(outlook(job({ progress, step }))).toBe(want))

test('savings', () => {
  expect(savings({ memory_done_bytes: 75, disk_done_bytes: 25, wire_bytes: 40 })).toBeCloseTo(0.6)
  expect(savings({ memory_done_bytes: 10, wire_bytes: 40 })).toBe(0)
  expect(savings({})).toBe(0)
  // What the agent has counted before the codec counts for more than what the hypervisor says of its copying.
  expect(savings({ memory_done_bytes: 10, raw_bytes: 200, wire_bytes: 40 })).toBeCloseTo(0.8)
  expect(rawBytes({ memory_done_bytes: 10, disk_done_bytes: 5 })).toBe(15)
})

test.each([
  ['ann', 'user', 'ann'],
  ['site:tokyo', 'site', 'tokyo'],
  ['peer:osaka', 'peer', 'osaka'],
  ['agent:h1', 'agent', 'h1'],
  [undefined, 'unknown', ''],
])('a job by %s was started by %s %s', (by, who, name) => expect(starter(job({}, { by }))).toEqual({ who, name }))

test('capacity: hosts that are there, loans that have not ended, by whose they are', () => {
  const r = (cpus: number) => ({ cpus, memory_mib: 0, disk_gib: 0, addresses: 0 })
  const host = (connected: boolean) => ({ status: { connected, capacity: r(4), allotted: r(1) } }) as Host
  const loan = (lender: string, borrower: string, state: string) => ({ spec: { lender, borrower, amount: r(2) }, status: { state, used: r(1) } }) as Loan
  const c = capacityOf('tokyo', [host(true), host(true), host(false)], [loan('tokyo', 'osaka', 'active'), loan('nara', 'tokyo', 'reclaimed'), loan('nara', 'tokyo', 'ended')])
  expect([c.own, c.used, c.lent, c.lentUsed, c.borrowed, c.borrowedUsed].map((x) => x.cpus)).toEqual([8, 2, 2, 1, 2, 1])
})
