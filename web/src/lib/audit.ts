// The audit log's entries, as they come: a page of the newest, then what is new, and older ones when they are asked for.
import type { AuditEntry } from './types.ts'

export const most = 2000 // entries that are shown at once; the oldest go

/** Puts entries, the newest first, into a list of others. Each is there once. */
export function merge(have: AuditEntry[], more: AuditEntry[]): AuditEntry[] {
  const ids = new Set(have.map((e) => e.id))
  const all = [...have, ...more.filter((e) => !ids.has(e.id))]
  return all.sort((a, b) => b.id - a.id)
}

/** What a search asks the API for. */
export function queryOf(q: URLSearchParams, now: number): Record<string, string | undefined> {
  const hours = Number(q.get('hours') ?? 0)
  return {
    actor: q.get('actor') ?? undefined, kind: q.get('kind') ?? undefined, name: q.get('name') ?? undefined, verb: q.get('verb') ?? undefined,
    result: q.get('result') ?? undefined,
    since: hours > 0 ? new Date(now - hours * 3_600_000).toISOString().replace(/\.\d+Z$/, 'Z') : undefined,
  }
}
