import { expect, test } from 'vitest'
import { balances, daysUntil, roundUp, stacks } from '../src/lib/ledger.ts'
import type { LedgerDay } from '../src/lib/types.ts'

const hours = (n: number) => ({ cpu_hours: n, memory_gib_hours: n / 2, disk_gib_hours: 0, address_hours: 0 })
const row = (day: string, lender: string, borrower: string, n: number, loan = 'l'): LedgerDay => ({ day, loan, lender, borrower, used: hours(n), granted: hours(24), vm_hours: n })
const rows = [row('2026-11-29', 'tokyo', 'osaka', 3), row('2026-11-29', 'tokyo', 'osaka', 1, 'm'), row('2026-11-30', 'tokyo', 'nara', 5), row('2026-11-30', 'osaka', 'tokyo', 2)]

test('a day without loans is a day', () => {
  expect(daysUntil(new Date('2026-12-01T03:00:00Z'), 3)).toEqual(['2026-11-29', '2026-11-30', '2026-12-01'])
})

test('loans of a peer are one part of a stack', () => {
  const s = stacks(rows, 'tokyo', 'lent', 'cpu_hours', ['2026-11-29', '2026-11-30', '2026-12-01'])
  expect(s.peers).toEqual(['nara', 'osaka'])
  expect(s.days.map((d) => d.total)).toEqual([4, 5, 0])
  expect(s.days[0]!.parts).toEqual([{ peer: 'nara', value: 0 }, { peer: 'osaka', value: 4 }])
  expect(s.most).toBe(5)
  expect(stacks(rows, 'tokyo', 'borrowed', 'memory_gib_hours', ['2026-11-30']).days[0]!.total).toBe(1)
})

test('who owes whom', () => {
  expect(balances(rows, 'tokyo', 'vm_hours')).toEqual([{ peer: 'nara', lent: 5, borrowed: 0 }, { peer: 'osaka', lent: 4, borrowed: 2 }])
})

test('an axis ends at a round number', () => {
  expect([0, 0.03, 1, 1.1, 7, 24, 96].map(roundUp)).toEqual([1, 0.05, 1, 2, 10, 25, 100])
})
