// What a site has, lends and borrows, added up.
import type { Host, Loan, Resources } from './types.ts'

const none: Resources = { cpus: 0, memory_mib: 0, disk_gib: 0, addresses: 0 }

export function add(a: Resources, b: Partial<Resources>): Resources {
  return {
    cpus: a.cpus + (b.cpus ?? 0), memory_mib: a.memory_mib + (b.memory_mib ?? 0),
    disk_gib: a.disk_gib + (b.disk_gib ?? 0), addresses: a.addresses + (b.addresses ?? 0),
  }
}

/** What is left of an amount; never below nothing. */
function left(all: Resources, used: Resources): Resources {
  const less = (k: keyof Resources) => Math.max(0, all[k] - used[k])
  return { cpus: less('cpus'), memory_mib: less('memory_mib'), disk_gib: less('disk_gib'), addresses: 0 }
}

export interface Capacity {
  own: Resources // of all hosts that are connected
  used: Resources // given to VMs and guests there
  free: Resources
  lent: Resources
  lentUsed: Resources
  borrowed: Resources
  borrowedUsed: Resources
}

export function capacityOf(site: string, hosts: Host[], loans: Loan[]): Capacity {
  const c: Capacity = { own: none, used: none, free: none, lent: none, lentUsed: none, borrowed: none, borrowedUsed: none }
  for (const h of hosts) {
    if (!h.status.connected) continue
    c.own = add(c.own, h.status.capacity)
    c.used = add(c.used, h.status.allotted)
    c.free = add(c.free, left(h.status.capacity, h.status.allotted))
  }
  for (const l of loans) {
    if (l.status.state === 'ended') continue
    if (l.spec.lender === site) {
      c.lent = add(c.lent, l.spec.amount)
      c.lentUsed = add(c.lentUsed, l.status.used)
    } else if (l.spec.borrower === site) {
      c.borrowed = add(c.borrowed, l.spec.amount)
      c.borrowedUsed = add(c.borrowedUsed, l.status.used)
    }
  }
  return c
}
