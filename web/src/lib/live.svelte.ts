// All that the page shows of the API's objects: listed once, page by page, and kept up to date by one watch of several
// kinds. Objects never change; what changed is another object.
import { ApiError, call, fetchApi } from './api.ts'
import { Parser } from './sse.ts'
import type { Kind, Kinds, Meta } from './types.ts'

const pageSize = 1000
// What arrives is shown together: after so many ms, and longer where showing it takes long, so that most of the time is left
// for who types and scrolls.
const flushEvery = 100
const flushMost = 500
const flushShare = 4 // times what the last flush has taken
const silence = 40_000 // ms: the server gives a sign of life every 15 s
const retryMin = 500
const retryMax = 10_000

/** What a name is sorted by: web2 comes before web10. */
export const orderOf = (name: string) => name.replace(/\d+/g, (digits) => digits.padStart(10, '0'))

/** An object, and what it is sorted by. */
interface Entry<T> {
  order: string
  object: T
  listed: boolean
}

/** The objects of a kind, by name. What reads them follows their changes. */
export class Collection<T extends Meta> {
  #items = new Map<string, Entry<T>>()
  #version = $state(0)
  #sorted: Entry<T>[] = [] // those that are listed, in order; some may be removed since
  #stale = false // other names are there than are sorted
  #list: T[] | undefined
  loaded = $state(false)
  revision = 0 // of the list; 0: not listed
  names = 0 // another number whenever the list has other names

  /** All of them, in the order of their names. The same array as long as nothing changes. */
  get all(): T[] {
    void this.#version
    return (this.#list ??= this.#listed())
  }

  get size(): number {
    void this.#version
    return this.#items.size
  }

  get(name: string): T | undefined {
    void this.#version
    return this.#items.get(name)?.object
  }

  /** Replaces all. */
  reset(objects: Iterable<T>) {
    this.#items = new Map()
    this.#sorted = []
    this.#stale = true
    for (const o of objects) this.#put(o)
    this.changed()
  }

  /** Takes a change, unless a newer one is there. The caller calls changed after the last one. */
  apply(type: string, object: T, revision: number) {
    const have = this.#items.get(object.name)?.object
    if (type === 'delete') {
      if (have && (have.revision ?? 0) <= revision) {
        this.#items.delete(object.name)
        this.#stale = true
      }
    } else if (!have || have.uid !== object.uid || (have.revision ?? 0) <= (object.revision ?? 0)) {
      this.#put(object)
    }
  }

  changed() {
    this.#list = undefined
    this.#version++
  }

  #put(object: T) {
    const have = this.#items.get(object.name)
    if (have) {
      have.object = object
      return
    }
    this.#items.set(object.name, { order: orderOf(object.name), object, listed: false })
    this.#stale = true
  }

  /** Only what is new is not where it belongs, so that sorting is quick. */
  #listed(): T[] {
    if (this.#stale) {
      const old = this.#sorted.filter((e) => this.#items.get(e.object.name) === e)
      const added = [...this.#items.values()].filter((e) => !e.listed)
      for (const e of added) e.listed = true
      this.#sorted = [...old, ...added].sort((a, b) => (a.order < b.order ? -1 : a.order > b.order ? 1 : 0))
      this.#stale = false
      this.names++
    }
    return this.#sorted.map((e) => e.object)
  }
}

export type Connection = 'connecting' | 'live' | 'lost'

interface Change {
  type: string
  revision: number
  kind: Kind
  object: Meta
}

const everywhere: Kind[] = ['sites', 'vms', 'jobs', 'hosts', 'peers', 'loans', 'offers', 'networks', 'addresses', 'images', 'owners', 'notices']
const whenAsked: Kind[] = ['users', 'guests', 'volumes', 'translators', 'events']

export class Live {
  connection = $state<Connection>('connecting')
  lostSince = $state<Date>()
  trouble = $state<ApiError>()

  // All are made here: Svelte does not follow what is made by who reads it.
  #collections = new Map<Kind, Collection<Meta>>([...everywhere, ...whenAsked].map((k) => [k, new Collection<Meta>()]))
  #wanted = new Set<Kind>(everywhere)
  #last = 0 // revision up to which the watch has told
  #stop: AbortController | undefined
  #again: AbortController | undefined // ends the watch, which begins anew
  #pending: Change[] = []
  #timer: ReturnType<typeof setTimeout> | undefined
  #flushed = 0
  #took = 0 // ms: the last flush, until it was shown

  /** The objects of a kind. They are fetched from now on, if they were not before. */
  of<K extends Kind>(kind: K): Collection<Kinds[K] & Meta> {
    if (!this.#wanted.has(kind)) {
      this.#wanted.add(kind)
      this.#again?.abort()
    }
    return this.#collections.get(kind) as unknown as Collection<Kinds[K] & Meta>
  }

  /** Follows the API until stop. */
  start() {
    this.stop()
    this.#stop = new AbortController()
    void this.#run(this.#stop.signal)
  }

  stop() {
    this.#stop?.abort()
    this.#stop = undefined
    clearTimeout(this.#timer)
    this.#timer = undefined
    this.#pending = []
    this.#last = 0
    for (const c of this.#collections.values()) {
      c.reset([])
      c.loaded = false
      c.revision = 0
    }
    this.connection = 'connecting'
    this.lostSince = undefined
    this.trouble = undefined
  }

  async #run(signal: AbortSignal) {
    let pause = retryMin
    while (!signal.aborted) {
      this.#again = new AbortController()
      const either = AbortSignal.any([signal, this.#again.signal])
      try {
        const from = await this.#listMissing(either)
        await this.#watch(from, either, () => (pause = retryMin))
      } catch (e) {
        if (signal.aborted) return
        if (either.aborted) continue // another kind is wanted
        this.#failed(e)
      }
      if (signal.aborted) return
      await new Promise((done) => setTimeout(done, pause * (0.75 + Math.random() / 2)))
      pause = Math.min(pause * 2, retryMax)
    }
  }

  #failed(e: unknown) {
    const error = e instanceof ApiError ? e : new ApiError(0, 'no-answer', e instanceof Error ? e.message : String(e))
    if (error.code === 'stale') {
      for (const c of this.#collections.values()) c.revision = 0
      this.#last = 0
      return
    }
    this.trouble = error
    if (this.connection !== 'lost') this.lostSince = new Date()
    this.connection = 'lost'
  }

  /** Lists the kinds that are not there, and gives the revision after which to watch. */
  async #listMissing(signal: AbortSignal): Promise<number> {
    const missing = [...this.#wanted].filter((k) => this.of(k).revision === 0)
    await Promise.all(missing.map((k) => this.#list(k, signal)))
    const from = Math.min(...missing.map((k) => this.of(k).revision), this.#last || Infinity)
    return Number.isFinite(from) ? from : 0
  }

  async #list(kind: Kind, signal: AbortSignal) {
    const c = this.of(kind) as Collection<Meta>
    const items = new Map<string, Meta>()
    let cursor: string | undefined
    let revision = 0
    do {
      const page: { revision: number; items: Meta[]; next?: string } = await call('GET', `/v1/${kind}`, {
        query: { limit: pageSize, cursor },
        signal,
      })
      revision = page.revision
      cursor = page.next
      for (const o of page.items) items.set(o.name, o)
      if (!c.loaded) c.reset(items.values()) // the first page is shown while the others come
    } while (cursor)
    c.reset(items.values())
    c.revision = revision
    c.loaded = true
  }

  async #watch(from: number, signal: AbortSignal, good: () => void) {
    const quiet = new AbortController()
    let alarm = setTimeout(() => quiet.abort(), silence)
    const kinds = [...this.#wanted].join(',')
    try {
      const answer = await fetchApi('GET', '/v1/watch', { query: { kinds, from }, signal: AbortSignal.any([signal, quiet.signal]) })
      const reader = answer.body!.pipeThrough(new TextDecoderStream()).getReader()
      this.#last = from
      this.connection = 'live'
      this.lostSince = undefined
      this.trouble = undefined
      good()
      const parser = new Parser()
      for (;;) {
        const { value, done } = await reader.read()
        if (done) break
        clearTimeout(alarm)
        alarm = setTimeout(() => quiet.abort(), silence)
        for (const m of parser.take(value)) {
          if (m.data) this.#take(JSON.parse(m.data) as Change)
          if (m.id) this.#last = Number(m.id)
        }
      }
      throw new ApiError(0, 'no-answer', '')
    } finally {
      clearTimeout(alarm)
    }
  }

  #take(change: Change) {
    this.#pending.push(change)
    this.#timer ??= setTimeout(() => this.#flush(), Math.max(0, this.#flushed + Math.min(flushMost, Math.max(flushEvery, flushShare * this.#took)) - performance.now()))
  }

  #flush() {
    this.#timer = undefined
    const begun = (this.#flushed = performance.now())
    const touched = new Set<Collection<Meta>>()
    for (const { type, kind, object, revision } of this.#pending) {
      const c = this.of(kind) as Collection<Meta>
      c.apply(type, object, revision)
      touched.add(c)
    }
    this.#pending = []
    for (const c of touched) c.changed()
    // Svelte shows it in a microtask; what comes after that has waited for it.
    setTimeout(() => {
      this.#took = performance.now() - begun
      this.#flushed = performance.now()
    })
  }
}

export const live = new Live()
