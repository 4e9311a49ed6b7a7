// The notices that were put away in this browser: by their uid and revision, so that one that is changed is shown again.
import { most, read } from './dismissed.ts'

const key = 'wcc.dismissed'

const idOf = (n: { uid?: string; revision?: number }) => `${n.uid ?? ''}@${n.revision ?? 0}`

class Dismissed {
  #ids = $state.raw(new Set(read(localStorage.getItem(key))))

  has(n: { uid?: string; revision?: number }): boolean {
    return this.#ids.has(idOf(n))
  }

  add(n: { uid?: string; revision?: number }) {
    const ids = [...this.#ids, idOf(n)].slice(-most)
    this.#ids = new Set(ids)
    localStorage.setItem(key, JSON.stringify(ids))
  }

  /** Shows all of them again. */
  clear() {
    this.#ids = new Set()
    localStorage.removeItem(key)
  }
}

export const dismissed = new Dismissed()
