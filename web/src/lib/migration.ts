// What can be said of a job out of its journal and its figures.
import { timeOf } from './format.ts'
import type { Job, Progress } from './types.ts'

/** The steps of a migration that goes well, as its journal names them. */
const migration = ['none', 'checked', 'reserved', 'prepared', 'copying', 'copied', 'committed', 'switched', 'confirmed', 'done']

export interface Step {
  step: string
  state: 'done' | 'now' | 'next'
  note?: string | undefined
  after?: number // seconds since the job began
}

/** The steps of a job: those of its journal, and of a migration that goes on those that follow. */
export function stepsOf(job: Job): Step[] {
  const begun = timeOf(job.status.started)?.getTime()
  const journal = job.status.journal ?? []
  const running = job.status.state === 'running' || job.status.state === 'undoing'
  const steps: Step[] = []
  journal.forEach((row, i) => {
    const when = timeOf(row.time)?.getTime()
    const state = running && i === journal.length - 1 ? 'now' : 'done'
    const known = steps.find((s) => s.step === row.step)
    if (known) {
      known.note = row.note ?? known.note
      known.state = state
      return
    }
    const step: Step = { step: row.step, state, note: row.note }
    if (begun !== undefined && when !== undefined) step.after = Math.max(0, (when - begun) / 1000)
    steps.push(step)
  })
  if (job.spec.type === 'migrate' && job.status.state === 'running' && steps.length) {
    const reached = Math.max(...steps.map((s) => migration.indexOf(s.step)))
    for (const step of migration.slice(reached + 1)) steps.push({ step, state: 'next' })
  }
  return steps
}

/** How a copy will end: the guest must not write faster than the link carries. undefined: nothing can be said. */
export function outlook(job: Job): 'ends' | 'grows' | undefined {
  const { rate_bytes_per_second: rate = 0, dirty_rate_bytes_per_second: dirty = 0 } = job.status.progress
  if (job.status.state !== 'running' || job.status.step !== 'copying' || rate <= 0) return undefined
  return dirty < rate ? 'ends' : 'grows'
}

/** The part of what was to be sent that did not have to cross the link. */
export function savings(p: Progress): number {
  const raw = rawBytes(p)
  if (!p.wire_bytes || raw <= 0) return 0
  return Math.max(0, 1 - p.wire_bytes / raw)
}

/** What was to be sent, before it was compressed. Agents of earlier releases do not count it: then it is what was copied. */
export const rawBytes = (p: Progress) => p.raw_bytes || (p.memory_done_bytes ?? 0) + (p.disk_done_bytes ?? 0)

/** Who started a job. The API names a user by its name, and others by what they are: site:tokyo. */
export function starter(job: Job): { who: 'user' | 'site' | 'peer' | 'agent' | 'unknown'; name: string } {
  const by = job.spec.by ?? ''
  const [kind, ...name] = by.split(':')
  if (!by) return { who: 'unknown', name: '' }
  if (name.length && (kind === 'site' || kind === 'peer' || kind === 'agent')) return { who: kind, name: name.join(':') }
  return { who: 'user', name: by }
}
