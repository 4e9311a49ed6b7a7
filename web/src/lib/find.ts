// What is found by a search: each object's words are put together once, as it never changes.
import { nounOf } from './nouns.ts'
import type { Subject } from './query.ts'
import type { Kind, Kinds, Meta } from './types.ts'

const subjects = new WeakMap<object, Subject>()

/** An object as a search sees it. */
export function subjectOf<K extends Kind>(kind: K, o: Kinds[K]): Subject {
  let s = subjects.get(o)
  if (!s) {
    s = make(kind, o)
    subjects.set(o, s)
  }
  return s
}

/** Makes the subjects of a long list a few at a time, so that the first keystroke need not. Gives what ends it. */
export function prepare<K extends Kind>(kind: K, objects: readonly Kinds[K][]): () => void {
  let at = 0
  const some = () => {
    for (const until = at + 1000; at < until && at < objects.length; at++) subjectOf(kind, objects[at]!)
    if (at < objects.length) timer = setTimeout(some)
    else objects = [] // what ends this would keep them for ever
  }
  let timer = setTimeout(some)
  return () => clearTimeout(timer)
}

function make<K extends Kind>(kind: K, o: Kinds[K]): Subject {
  const n = nounOf(kind)
  const m = o as Meta
  const labels = m.labels ?? {}
  const words = [m.name, ...Object.entries(labels).map(([k, v]) => `${k}=${v}`)]
  for (const f of n.fields) {
    if (f.key !== 'labels' && f.as !== 'time' && f.as !== 'state' && !f.sort) words.push(f.text(o))
  }
  const clean = (l: (string | undefined)[] | undefined) => (l ?? []).filter((v): v is string => !!v)
  return {
    text: words.join('\n').toLowerCase(),
    labels,
    facet: (key) => {
      switch (key) {
        case 'name':
          return [m.name]
        case 'owner':
          return clean([m.owner])
        case 'state':
          return [...n.state(o), ...(m.deleting ? ['deleting'] : [])]
        case 'site':
          return clean(n.sites?.(o))
        case 'host':
          return clean(n.hosts?.(o))
      }
      return clean(n.facets?.[key]?.(o))
    },
  }
}
