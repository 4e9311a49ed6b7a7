import { expect, test } from 'vitest'
import { Parser, type Message } from '../src/lib/sse.ts'

const stream = ': watching\n\nid: 7\nevent: put\ndata: {"a":1}\n\n: idle\nid: 9\n\nevent: delete\r\ndata: one\r\ndata: two\r\n\r\n'
const want: Message[] = [
  { id: '', event: '', data: '' },
  { id: '7', event: 'put', data: '{"a":1}' },
  { id: '9', event: '', data: '' },
  { id: '', event: 'delete', data: 'one\ntwo' },
]

test('however the stream is cut', () => {
  for (let size = 1; size <= stream.length; size++) {
    const parser = new Parser()
    const found: Message[] = []
    for (let at = 0; at < stream.length; at += size) found.push(...parser.take(stream.slice(at, at + size)))
    expect(found, `in pieces of ${size}`).toEqual(want)
  }
})

test('what has not ended is not told', () => {
  expect(new Parser().take('id: 1\ndata: x\n')).toEqual([])
})
