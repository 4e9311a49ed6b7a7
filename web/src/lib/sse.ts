// Server-Sent Events (WHATWG HTML §9.2) out of a body's chunks. EventSource hides the status and the error of an answer.

export interface Message {
  id: string // '': none
  event: string // '': none
  data: string // '': none, as of a sign of life
}

/** Takes chunks of text, and gives the messages that they complete. */
export class Parser {
  #rest = ''
  #message: Message = { id: '', event: '', data: '' }
  #any = false

  take(chunk: string): Message[] {
    const found: Message[] = []
    const lines = (this.#rest + chunk).split('\n')
    this.#rest = lines.pop() ?? ''
    for (const raw of lines) {
      const line = raw.endsWith('\r') ? raw.slice(0, -1) : raw
      if (line === '') {
        if (this.#any) found.push(this.#message)
        this.#message = { id: '', event: '', data: '' }
        this.#any = false
        continue
      }
      this.#any = true
      const colon = line.indexOf(':')
      if (colon === 0) continue // a comment
      const field = colon < 0 ? line : line.slice(0, colon)
      let value = colon < 0 ? '' : line.slice(colon + 1)
      if (value.startsWith(' ')) value = value.slice(1)
      if (field === 'id') this.#message.id = value
      else if (field === 'event') this.#message.event = value
      else if (field === 'data') this.#message.data += (this.#message.data ? '\n' : '') + value
    }
    return found
  }
}
