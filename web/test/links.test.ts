import { expect, test } from 'vitest'
import { apart, linksOf, movingOf } from '../src/lib/links.ts'
import type { Job, Loan, Meta, Site, VM } from '../src/lib/types.ts'

const site = (name: string) => ({ name, spec: { endpoint: '' }, status: { self: name === 'tokyo', reached: true } }) as unknown as Site & Meta
const job = (name: string, vm: string, target: string) => ({ name, spec: { type: 'migrate', object: `vms/${vm}`, target }, status: { state: 'running' } }) as unknown as Job
const at: Record<string, string> = { web1: 'tokyo', web2: 'osaka', web3: 'tokyo' }
const vmOf = (name: string) => ({ status: { site: at[name] } }) as VM

test('a VM moves on the link between its site and its target, whichever of them is here', () => {
  const moving = movingOf([job('j1', 'web1', 'osaka/h1'), job('j2', 'web2', 'tokyo'), job('j3', 'web3', 'tokyo/h2')], vmOf)
  expect(moving.map((m) => [m.vm, m.from, m.to])).toEqual([['web1', 'tokyo', 'osaka'], ['web2', 'osaka', 'tokyo']])
  const loans = [{ spec: { lender: 'osaka', borrower: 'tokyo' }, status: { state: 'active' } }, { spec: { lender: 'tokyo', borrower: 'osaka' }, status: { state: 'ended' } }] as Loan[]
  const links = linksOf('tokyo', [site('tokyo'), site('osaka'), site('nara')], loans, moving)
  expect(links.map((l) => [l.peer.name, l.lent, l.borrowed, l.moving.length])).toEqual([['osaka', 0, 1, 2], ['nara', 0, 0, 0]])
})

test('labels are not over each other', () => {
  const placed = apart([{ x: 10, y: 10, width: 60 }, { x: 30, y: 14, width: 60 }, { x: 20, y: 30, width: 60 }, { x: 300, y: 10, width: 60 }], 28)
  for (const [i, a] of placed.entries()) for (const b of placed.slice(i + 1)) expect(Math.abs(a.x - b.x) >= 60 || Math.abs(a.y - b.y) >= 28).toBe(true)
  expect(placed.find((l) => l.x === 300)!.y).toBe(10)
})
