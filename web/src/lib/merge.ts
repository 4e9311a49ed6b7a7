// What two people changed of the same object: a merge of three.

export type Json = null | boolean | number | string | Json[] | { [key: string]: Json }

export interface Difference {
  path: string // spec.cpus
  base: Json | undefined
  mine: Json | undefined
  theirs: Json | undefined
  conflict: boolean // both changed it, to different values
}

const isObject = (v: Json | undefined): v is { [key: string]: Json } => typeof v === 'object' && v !== null && !Array.isArray(v)

export function same(a: Json | undefined, b: Json | undefined): boolean {
  if (a === b) return true
  if (Array.isArray(a) && Array.isArray(b)) return a.length === b.length && a.every((v, i) => same(v, b[i]))
  if (isObject(a) && isObject(b)) return [...new Set([...Object.keys(a), ...Object.keys(b)])].every((k) => same(a[k], b[k]))
  return false
}

/** Merges what I and they made of a base. Of a conflict mine is taken, until somebody chooses. */
export function merge(base: Json, mine: Json, theirs: Json): { merged: Json; differences: Difference[] } {
  const differences: Difference[] = []
  const of = (path: string, b: Json | undefined, m: Json | undefined, t: Json | undefined): Json | undefined => {
    if (isObject(m) && isObject(t) && (isObject(b) || b === undefined)) {
      const out: { [key: string]: Json } = {}
      for (const key of new Set([...Object.keys(m), ...Object.keys(t), ...Object.keys(b ?? {})])) {
        const v = of(path ? `${path}.${key}` : key, b?.[key], m[key], t[key])
        if (v !== undefined) out[key] = v
      }
      return out
    }
    if (same(b, t)) return m
    const conflict = !same(b, m) && !same(m, t)
    differences.push({ path, base: b, mine: m, theirs: t, conflict })
    return same(b, m) ? t : m
  }
  return { merged: of('', base, mine, theirs) ?? null, differences }
}

/** The value at a path; undefined when there is none. */
export function at(o: Json | undefined, path: string): Json | undefined {
  return path.split('.').reduce<Json | undefined>((v, key) => (isObject(v) ? v[key] : undefined), o)
}

/** The object with another value at a path; undefined removes what is there. */
export function put(o: Json, path: string, value: Json | undefined): Json {
  const [key = '', ...rest] = path.split('.')
  const out = isObject(o) ? { ...o } : {}
  const inner = rest.length ? put(out[key] ?? {}, rest.join('.'), value) : value
  if (inner === undefined) delete out[key]
  else out[key] = inner
  return out
}
