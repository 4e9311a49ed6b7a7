// Who is logged in.
import { ApiError, call, onLoggedOut } from './api.ts'
import { live } from './live.svelte.ts'
import type { Session } from './types.ts'

class Login {
  /** undefined: not known yet; null: nobody. */
  who = $state.raw<Session | null | undefined>()
  trouble = $state.raw<ApiError>()
  ended = $state(false) // a session was there, and is no longer good

  /** Asks who one is. */
  async ask() {
    this.trouble = undefined
    try {
      this.#in(await call<Session>('GET', '/v1/session'))
    } catch (e) {
      if (e instanceof ApiError && e.status === 401) this.who = null
      else this.trouble = e as ApiError
    }
  }

  /** Throws an ApiError. */
  async login(token: string) {
    await call('POST', '/v1/session', { body: { token } })
    this.#in(await call<Session>('GET', '/v1/session'))
  }

  async logout() {
    await call('DELETE', '/v1/session')
    this.#out()
  }

  constructor() {
    onLoggedOut.call = () => {
      if (!this.who) return
      this.ended = true
      this.#out()
    }
  }

  #in(who: Session) {
    this.who = who
    this.ended = false
    live.start()
  }

  #out() {
    live.stop()
    this.who = null
  }
}

export const session = new Login()
