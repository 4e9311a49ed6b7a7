// What a VM has used, made ready for charts: what several answers said put together, cut to a span, with gaps as gaps.
import type { Sample, Usage } from './types.ts'

export const fineStep = 10 // s
export const coarseStep = 300

export interface Kept {
  fine: Sample[]
  coarse: Sample[]
}

const time = (s: Sample) => Date.parse(s.at) / 1000

/** Adds an answer to what is kept. A host that the VM has left is no longer asked: what it said before stays. */
export function keep(have: Kept, got: Usage): Kept {
  return { fine: join(have.fine, got.recent ?? [], 24 * 360), coarse: join(have.coarse, got.day ?? [], 288) }
}

function join(have: Sample[], got: Sample[], most: number): Sample[] {
  const at = new Map<number, Sample>()
  for (const s of [...have, ...got]) at.set(time(s), s)
  return [...at.entries()].sort((a, b) => a[0] - b[0]).map(([, s]) => s).slice(-most)
}

export interface Points {
  x: number[] // s since 1970
  samples: (Sample | null)[] // null: nothing is known
}

/** The samples of a span that ends now, each with the length of its interval: fine ones where there are some. */
export function points(kept: Kept, span: number, now: number): Points {
  const from = now - span
  const fine = span <= 3600 ? kept.fine.filter((s) => time(s) > from) : []
  const begins = fine[0] ? time(fine[0]) - fineStep : Infinity
  // A coarse sample that ends among the fine ones holds up to where they begin.
  const coarse = kept.coarse.filter((s) => time(s) > from && time(s) - coarseStep < begins).map((s) => ({ s, at: Math.min(time(s), begins), from: time(s) - coarseStep, step: coarseStep }))
  const all = [...coarse, ...fine.map((s) => ({ s, at: time(s), from: time(s) - fineStep, step: fineStep }))]
  const out: Points = { x: [], samples: [] }
  let until: number | undefined
  for (const p of all) {
    // A mean is of the time before it: what is missing lies between the last sample and where this one began.
    if (until !== undefined && p.from - until > 0.8 * p.step) {
      out.x.push(until + 1)
      out.samples.push(null)
    }
    out.x.push(p.at)
    out.samples.push(p.s)
    until = p.at
  }
  return out
}

export interface Summary {
  last: number
  mean: number
  most: number
}

/** What a chart says in short; undefined: nothing is known. */
export function summary(values: (number | null)[]): Summary | undefined {
  const known = values.filter((v): v is number => v !== null)
  if (known.length === 0) return undefined
  return { last: known.at(-1)!, mean: known.reduce((a, b) => a + b, 0) / known.length, most: Math.max(...known) }
}

/** At most n rows of a table that are spread over all. */
export function thin<T>(rows: T[], n: number): T[] {
  if (rows.length <= n) return rows
  return Array.from({ length: n }, (_, i) => rows[Math.round((i * (rows.length - 1)) / (n - 1))]!)
}
