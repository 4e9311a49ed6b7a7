// The ledger, made ready for charts: a stack for each day, a part for each peer.
import type { Hours, LedgerDay } from './types.ts'

export type Measure = 'cpu_hours' | 'memory_gib_hours' | 'disk_gib_hours' | 'vm_hours'
export type Way = 'lent' | 'borrowed'

export const valueOf = (r: LedgerDay, m: Measure, of: 'used' | 'granted' = 'used') => (m === 'vm_hours' ? r.vm_hours : (r[of] as Hours)[m])

/** All days from the first to today, of UTC: one on which nothing was lent is a day, too. */
export function daysUntil(today: Date, n: number): string[] {
  const end = Date.UTC(today.getUTCFullYear(), today.getUTCMonth(), today.getUTCDate())
  return Array.from({ length: n }, (_, i) => new Date(end - (n - 1 - i) * 86_400_000).toISOString().slice(0, 10))
}

export interface Stack {
  day: string
  parts: { peer: string; value: number }[] // in the order of peers
  total: number
}

export interface Stacks {
  peers: string[]
  days: Stack[]
  most: number // the highest stack
}

/** What this site has lent to its peers, or borrowed from them, on each day. */
export function stacks(rows: LedgerDay[], site: string, way: Way, measure: Measure, days: string[]): Stacks {
  const mine = rows.filter((r) => (way === 'lent' ? r.lender : r.borrower) === site)
  const peerOf = (r: LedgerDay) => (way === 'lent' ? r.borrower : r.lender)
  const peers = [...new Set(mine.map(peerOf))].sort()
  const sums = new Map<string, number>()
  for (const r of mine) {
    const key = `${r.day} ${peerOf(r)}`
    sums.set(key, (sums.get(key) ?? 0) + valueOf(r, measure))
  }
  const out = days.map((day) => {
    const parts = peers.map((peer) => ({ peer, value: sums.get(`${day} ${peer}`) ?? 0 }))
    return { day, parts, total: parts.reduce((a, p) => a + p.value, 0) }
  })
  return { peers, days: out, most: Math.max(0, ...out.map((d) => d.total)) }
}

export interface Balance {
  peer: string
  lent: number
  borrowed: number
}

/** What went each way between this site and each peer, over all rows. */
export function balances(rows: LedgerDay[], site: string, measure: Measure): Balance[] {
  const out = new Map<string, Balance>()
  for (const r of rows) {
    const lent = r.lender === site
    const peer = lent ? r.borrower : r.lender
    const b = out.get(peer) ?? { peer, lent: 0, borrowed: 0 }
    b[lent ? 'lent' : 'borrowed'] += valueOf(r, measure)
    out.set(peer, b)
  }
  return [...out.values()].sort((a, b) => (a.peer < b.peer ? -1 : 1))
}

/** A number that is round, and not below n: the end of an axis. */
export function roundUp(n: number): number {
  if (n <= 0) return 1
  const unit = 10 ** Math.floor(Math.log10(n))
  return ([1, 2, 2.5, 5, 10].find((f) => f * unit >= n) ?? 10) * unit
}
