// Calls of the site's API. The session's cookie says who calls.
import type { Reason } from './types.ts'

/** Every error of the API, and what stands for one when there is no answer. */
export class ApiError extends Error {
  constructor(
    readonly status: number, // of HTTP; 0: no answer
    readonly code: string,
    message: string,
    readonly field = '',
    readonly reasons: Reason[] = [],
  ) {
    super(message)
  }

  /** What is wrong with each field of a request; what is about none stands under ''. */
  byField(): Map<string, string[]> {
    const found = new Map<string, string[]>()
    const add = (field: string, message: string) => found.set(field, [...(found.get(field) ?? []), message])
    for (const r of this.reasons) {
      const field = r.field ?? ''
      // The message of a fault begins with its field; beside the field that would be said twice.
      add(field, field && r.message.startsWith(`${field}: `) ? r.message.slice(field.length + 2) : r.message)
    }
    if (this.reasons.length === 0) add(this.field, this.message)
    return found
  }
}

export interface CallOptions {
  body?: unknown
  query?: Record<string, string | number | boolean | undefined>
  revision?: number // the object must still have it (If-Match)
  patch?: boolean // the body is a JSON Merge Patch
  signal?: AbortSignal
}

/** What is to be done when the session has ended. */
export const onLoggedOut = { call: () => {} }

function url(path: string, query: CallOptions['query']): string {
  const q = new URLSearchParams()
  for (const [key, value] of Object.entries(query ?? {})) {
    if (value !== undefined && value !== '') q.set(key, String(value))
  }
  const text = q.toString()
  return text ? `${path}?${text}` : path
}

/** A key under which the controller does a request once, however often it arrives. */
function onceKey(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16)) // randomUUID is not there without TLS
  return Array.from(bytes, (b) => b.toString(16).padStart(2, '0')).join('')
}

type Shape = Partial<{ code: string; message: string; field: string; reasons: Reason[] | null }>

/** An error that stands in the body of an answer. */
export const errorIn = (e: Shape, status = 200) => new ApiError(status, e.code ?? 'internal', e.message ?? '', e.field, e.reasons ?? [])

/** The error that an answer carries. */
export async function errorOf(answer: Response): Promise<ApiError> {
  let e: Shape = {}
  try {
    e = await answer.json()
  } catch {
    // not the API's shape: a proxy in between, perhaps
  }
  return errorIn({ message: answer.statusText, ...e }, answer.status)
}

/** The API's answer to a request. Throws an ApiError. */
export async function fetchApi(method: string, path: string, o: CallOptions = {}): Promise<Response> {
  const headers: Record<string, string> = {}
  if (o.body !== undefined) headers['Content-Type'] = o.patch ? 'application/merge-patch+json' : 'application/json'
  if (o.revision) headers['If-Match'] = `"${o.revision}"`
  if (method === 'POST' && path !== '/v1/session') headers['Idempotency-Key'] = onceKey()
  const body = o.body === undefined ? undefined : JSON.stringify(o.body)
  let answer: Response
  try {
    answer = await fetch(url(path, o.query), { method, headers, body, signal: o.signal ?? null })
  } catch (cause) {
    if (o.signal?.aborted) throw cause
    throw new ApiError(0, 'no-answer', cause instanceof Error ? cause.message : String(cause))
  }
  if (answer.ok) return answer
  if (answer.status === 401 && path !== '/v1/session') onLoggedOut.call()
  throw await errorOf(answer)
}

/** The API's answer to a request, decoded. Throws an ApiError. */
export async function call<T>(method: string, path: string, o: CallOptions = {}): Promise<T> {
  const answer = await fetchApi(method, path, o)
  const text = await answer.text()
  return (text ? JSON.parse(text) : undefined) as T
}

/** The path of an object, or of something below it. */
export function pathOf(kind: string, name: string, ...rest: string[]): string {
  return ['/v1', kind, name, ...rest].map((part, i) => (i === 0 ? part : encodeURIComponent(part))).join('/')
}

/** Sends a file and tells how far it is. Throws an ApiError. fetch cannot tell that. */
export function upload(path: string, file: Blob, progress: (sent: number) => void, signal: AbortSignal): Promise<void> {
  return new Promise((done, failed) => {
    const request = new XMLHttpRequest()
    request.open('PUT', path)
    request.setRequestHeader('Content-Type', 'application/octet-stream')
    request.upload.onprogress = (e) => progress(e.loaded)
    request.onload = () => {
      if (request.status < 300) return done()
      void errorOf(new Response(request.responseText, { status: request.status })).then(failed)
    }
    request.onerror = () => failed(new ApiError(0, 'no-answer', ''))
    request.onabort = () => failed(new ApiError(0, 'cancelled', ''))
    signal.addEventListener('abort', () => request.abort())
    request.send(file)
  })
}
