// Where the page is: plain paths, so that everything has a link.
import { tick } from 'svelte'

class Place {
  path = $state(location.pathname)
  query = $state.raw(new URLSearchParams(location.search))

  /** Goes to a path. */
  async go(href: string, { replace = false }: { replace?: boolean } = {}) {
    const to = new URL(href, location.href)
    const moved = to.pathname !== this.path
    history[replace ? 'replaceState' : 'pushState'](null, '', to)
    this.#read()
    if (moved) await this.#arrived()
  }

  /** Changes the query's parameters without leaving a trace in the history. */
  set(params: Record<string, string>) {
    const q = new URLSearchParams(location.search)
    for (const [key, value] of Object.entries(params)) {
      if (value) q.set(key, value)
      else q.delete(key)
    }
    const text = q.toString()
    history.replaceState(history.state, '', text ? `?${text}` : location.pathname)
    this.query = q
  }

  /** Follows the history and the links of this page. */
  listen() {
    addEventListener('popstate', () => {
      this.#read()
      void this.#arrived()
    })
    document.addEventListener('click', (e) => {
      if (e.defaultPrevented || e.button !== 0 || e.ctrlKey || e.metaKey || e.shiftKey || e.altKey) return
      const link = (e.target as Element).closest('a')
      if (!link || link.target || link.hasAttribute('download') || link.origin !== location.origin) return
      if (link.hash && link.pathname === location.pathname) return
      e.preventDefault()
      void this.go(link.href)
    })
  }

  #read() {
    this.path = location.pathname
    this.query = new URLSearchParams(location.search)
  }

  /** Puts the focus on the new page's heading: who cannot see it hears where one is. A page that is fetched has it later. */
  async #arrived() {
    await tick()
    const path = this.path
    document.querySelector('main')?.scrollTo(0, 0)
    for (const until = performance.now() + 5000; path === this.path && performance.now() < until; ) {
      const heading = document.querySelector<HTMLElement>('main h1')
      if (heading) return heading.focus({ preventScroll: true })
      await new Promise(requestAnimationFrame)
    }
  }
}

export const place = new Place()
