// What can be done now, for the command palette and the keyboard: what the shell offers, and what the page that is shown adds.
import { untrack } from 'svelte'

export interface Action {
  id: string
  title: string
  hint?: string // shown beside the title
  key?: string // 'c', or 'g v' for one after the other
  run: () => unknown
}

class Actions {
  #sources = $state.raw<(() => Action[])[]>([])

  get all(): Action[] {
    return this.#sources.flatMap((source) => source())
  }

  add(source: () => Action[]) {
    untrack(() => (this.#sources = [...this.#sources, source]))
    return () => {
      this.#sources = this.#sources.filter((s) => s !== source)
    }
  }
}

export const actions = new Actions()

/** Offers actions as long as the component is shown. To be called while it is made. */
export function offer(source: () => Action[]) {
  $effect(() => actions.add(source))
}

/** Runs actions by their keys. Keys that are typed into a field are the field's. */
export function listenKeys(enabled: () => boolean): () => void {
  let before = ''
  let at = 0
  const onKey = (e: KeyboardEvent) => {
    const target = e.target as HTMLElement
    if (e.ctrlKey || e.metaKey || e.altKey || e.defaultPrevented || !enabled()) return
    if (target.closest('input, textarea, select, [contenteditable], dialog, .terminal')) return
    if (e.key.length !== 1) return
    const now = performance.now()
    const pair = now - at < 1500 && before ? `${before} ${e.key}` : ''
    const found = actions.all.find((a) => a.key === pair) ?? actions.all.find((a) => a.key === e.key)
    before = found ? '' : e.key
    at = now
    if (!found) return
    e.preventDefault()
    void found.run()
  }
  document.addEventListener('keydown', onKey)
  return () => document.removeEventListener('keydown', onKey)
}
