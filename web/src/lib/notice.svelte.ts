// What the page tells its user beside what it shows: short notices, and questions that must be answered.
import { ApiError } from './api.ts'

export interface Notice {
  id: number
  kind: 'good' | 'bad' | 'info'
  text: string
  error?: ApiError
  href?: string
}

export interface Question {
  title: string
  text: string[]
  action: string // what the button says
  danger?: boolean
  confirm?: string // a name that has to be typed
}

class Notices {
  all = $state.raw<Notice[]>([])
  question = $state.raw<Question>()
  #next = 1
  #answer: ((yes: boolean) => void) | undefined

  /** Shows a text, and reads it out. Errors stay until they are put away. */
  say(kind: Notice['kind'], text: string, more: { error?: ApiError; href?: string } = {}) {
    const id = this.#next++
    this.all = [...this.all.slice(-4), { id, kind, text, ...more }]
    if (kind !== 'bad') setTimeout(() => this.drop(id), 8000)
  }

  /** Shows why something failed. */
  failed(what: string, e: unknown) {
    const error = e instanceof ApiError ? e : new ApiError(0, 'page', e instanceof Error ? e.message : String(e))
    this.say('bad', what, { error })
  }

  drop(id: number) {
    this.all = this.all.filter((n) => n.id !== id)
  }

  /** Asks, and waits for the answer. */
  ask(q: Question): Promise<boolean> {
    this.#answer?.(false)
    this.question = q
    return new Promise((answer) => (this.#answer = answer))
  }

  answer(yes: boolean) {
    this.question = undefined
    this.#answer?.(yes)
    this.#answer = undefined
  }
}

export const notices = new Notices()
