// A VM's console or display, opened by a ticket that works once.
import { call, pathOf } from './api.ts'
import type { Ticket, VM } from './types.ts'

export type Kind = 'console' | 'display'

/** Opens a websocket. A refusal of the ticket is an ApiError; what the websocket's end says is in its close event. */
export async function attach(vm: string, kind: Kind): Promise<WebSocket> {
  const { ticket } = await call<Ticket>('POST', pathOf('vms', vm, 'tickets'), { body: { kind } })
  // The ticket is no part of the address: addresses are kept in logs.
  const ws = new WebSocket(new URL(pathOf('vms', vm, kind), location.href.replace(/^http/, 'ws')), ['binary', `ticket.${ticket}`])
  ws.binaryType = 'arraybuffer'
  return ws
}

/** Whether a VM's hardware has a display: its hardware profile is its user's choice, or what it was given when it was placed. */
export const hasDisplay = (vm: VM) => (vm.spec.profile || vm.status.cpu?.profile || 0) >= 2

/** Whether there is something to attach to. */
export const attachable = (vm: VM) => ['running', 'migrating', 'suspended'].includes(vm.status.phase)

const shifted = /[A-Z~!@#$%^&*()_+{}|:"<>?]/
const keys: Record<string, number> = { '\n': 0xff0d, '\t': 0xff09, '\b': 0xff08 }

/** The keys that type a character, as keysyms (X11's keysymdef.h), with Shift where a US keyboard needs it. */
export function keysOf(c: string): { key: number; shift: boolean } {
  const code = c.codePointAt(0)!
  return { key: keys[c] ?? (code < 0x100 ? code : 0x01000000 | code), shift: shifted.test(c) }
}
