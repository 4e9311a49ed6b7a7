// What the site's doctor finds: asked again when something that it looks at has changed, and now and then.
import { ApiError, call } from './api.ts'
import { live } from './live.svelte.ts'
import type { Diagnosis, Finding } from './types.ts'

const every = 15_000 // ms: certificates and disks tell of no change
const gap = 3_000 // ms between two questions, at least

class Doctor {
  findings = $state.raw<Finding[]>([])
  at = $state<string>()
  error = $state.raw<ApiError>()
  #followers = 0
  #asked = 0
  #timer: ReturnType<typeof setTimeout> | undefined
  #run = 0 // counts the times that somebody began to follow: an older answer is of no use

  /** Asks from now on, until what it returns is called. */
  follow(): () => void {
    if (this.#followers++ === 0) void this.#ask(++this.#run)
    return () => {
      if (--this.#followers > 0) return
      clearTimeout(this.#timer)
      this.#timer = undefined
      this.#run++
    }
  }

  /** Is to be called in an effect: asks again when what the doctor looks at changes. */
  soon() {
    for (const kind of ['hosts', 'peers', 'loans', 'vms', 'jobs', 'images', 'networks', 'addresses'] as const) void live.of(kind).size
    if (this.#followers === 0 || this.#asked === 0) return
    this.#later(Math.max(200, this.#asked + gap - performance.now()))
  }

  #later(after: number) {
    clearTimeout(this.#timer)
    const run = this.#run
    this.#timer = setTimeout(() => void this.#ask(run), after)
  }

  async #ask(run: number) {
    this.#asked = performance.now()
    try {
      const d = await call<Diagnosis>('GET', '/v1/doctor')
      if (run !== this.#run) return
      this.findings = d.findings ?? []
      this.at = d.time
      this.error = undefined
    } catch (e) {
      if (run !== this.#run) return
      this.error = e instanceof ApiError ? e : new ApiError(0, 'no-answer', String(e))
    }
    this.#later(every)
  }
}

export const doctor = new Doctor()
