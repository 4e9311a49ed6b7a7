// The links between this site and its peers, and what moves on them.
import type { Job, Loan, Meta, Site, VM } from './types.ts'

export interface Moving {
  vm: string
  job: string
  from: string // site
  to: string
}

export interface Link {
  peer: Site & Meta
  lent: number // loans that are in force
  borrowed: number
  moving: Moving[] // in either direction
}

/** The VMs that move between two sites now. The source is where the VM is until the move is decided. */
export function movingOf(moves: Job[], vmOf: (name: string) => VM | undefined): Moving[] {
  const out: Moving[] = []
  for (const j of moves) {
    const name = j.spec.object.replace(/^vms\//, '')
    const to = (j.spec.target ?? '').split('/')[0]!
    const from = vmOf(name)?.status.site ?? ''
    if (to && from && from !== to) out.push({ vm: name, job: (j as Job & Meta).name, from, to })
  }
  return out
}

export function linksOf(here: string, sites: (Site & Meta)[], loans: Loan[], moving: Moving[]): Link[] {
  const active = loans.filter((l) => l.status.state === 'active')
  return sites.filter((s) => s.name !== here).map((peer) => ({
    peer,
    lent: active.filter((l) => l.spec.lender === here && l.spec.borrower === peer.name).length,
    borrowed: active.filter((l) => l.spec.borrower === here && l.spec.lender === peer.name).length,
    moving: moving.filter((m) => m.from === peer.name || (m.to === peer.name && m.from === here)),
  }))
}

export interface Label {
  x: number
  y: number
  width: number
}

/** Moves labels down until none is over another; the order is that of their heights. */
export function apart<T extends Label>(labels: T[], height: number): T[] {
  const placed: T[] = []
  for (const l of [...labels].sort((a, b) => a.y - b.y)) {
    const at = { ...l }
    for (let moved = true; moved; ) {
      moved = false
      for (const p of placed) {
        if (Math.abs(p.x - at.x) < (p.width + at.width) / 2 && Math.abs(p.y - at.y) < height) {
          at.y = p.y + height
          moved = true
        }
      }
    }
    placed.push(at)
  }
  return placed
}
