// What the page knows of each kind of object: its fields, as columns of a list and as rows of a page, and what it is
// found by.
import { gib, mib, bytes, number, timeOf, duration, rate } from './format.ts'
import { count, t, word, type Key } from './i18n.svelte.ts'
import type { Kind, Kinds, Meta, Resources } from './types.ts'

export interface Field<T> {
  key: string
  title: Key
  /** As text; '' is left out. */
  text: (o: T) => string
  /** How it is shown, if not as text. */
  as?: 'state' | 'time' | 'mono'
  href?: (o: T) => string | undefined
  /** What it is sorted by, if not by its text. */
  sort?: (o: T) => string | number
  /** In lists: shown at first, shown when asked for, or never. */
  column?: 'first' | 'more' | 'never'
  width?: string
  /** On a phone: at the right of the name, or below it. */
  phone?: 'side' | 'line'
}

export interface Noun<K extends Kind = Kind> {
  kind: K
  title: Key
  one: Key
  help: Key // what it is, and what to do first: shown where there is none
  admin?: boolean // only admins see any
  created?: 'vm' | 'form' | 'loan' | 'peer' | 'host' // how one is made here
  changed?: boolean
  deleted?: boolean
  states: string[]
  state: (o: Kinds[K]) => string[]
  sites?: (o: Kinds[K]) => (string | undefined)[]
  hosts?: (o: Kinds[K]) => (string | undefined)[]
  /** Qualifiers of its own, beside owner, site, host, state and label. */
  facets?: Record<string, (o: Kinds[K]) => (string | undefined)[]>
  fields: Field<Kinds[K]>[]
  /** The key of the field that stands first in a list and leads to the object's page; left out: its name. */
  lead?: string
}

const date = (text: string | undefined) => timeOf(text)?.toISOString() ?? ''
const place = (site?: string, host?: string) => (site && host ? `${site}/${host}` : (site ?? ''))
const list = (l: (string | undefined)[] | null | undefined) => (l ?? []).filter(Boolean).join(', ')
const yes = (b: boolean | undefined) => t(b ? 'word.yes' : 'word.no')

/** The addresses that a VM was given; what its guest claims beside them is for the VM's own page. */
export const given = (v: Kinds['vms']) => (v.status.addresses ?? []).filter((a) => a.origin !== 'guest').map((a) => a.address)

export function amount(r: Partial<Resources> | undefined): string {
  if (!r) return ''
  const parts: string[] = []
  if (r.cpus) parts.push(count('amount.cpus', r.cpus))
  if (r.memory_mib) parts.push(t('amount.memory', { size: mib(r.memory_mib) }))
  if (r.disk_gib) parts.push(t('amount.disk', { size: gib(r.disk_gib) }))
  if (r.addresses) parts.push(count('amount.addresses', r.addresses))
  return parts.length ? parts.join(', ') : t('amount.none')
}

/** A path of this page for what the API calls KIND/NAME. */
export function hrefOf(object: string): string | undefined {
  const [kind, ...name] = object.split('/')
  return kind && kind in nouns && name.length ? `/${kind}/${encodeURIComponent(name.join('/'))}` : undefined
}

export const pathTo = (kind: Kind, name: string | undefined) => (name ? `/${kind}/${encodeURIComponent(name)}` : undefined)

/** What a job does, in a word. */
export const jobType = (o: Kinds['jobs']) => word('job', o.spec.action ? `bulk_${o.spec.action}` : o.spec.type)

type F<K extends Kind> = Field<Kinds[K]>

/** Fields that many kinds have. */
const owner = <K extends Kind>(column: F<K>['column'] = 'first'): F<K> => ({
  key: 'owner', title: 'field.owner', text: (o) => (o as Meta).owner ?? '', column, width: '8rem', href: (o) => pathTo('owners', (o as Meta).owner),
})
const labels = <K extends Kind>(): F<K> => ({
  key: 'labels', title: 'field.labels', column: 'more', width: '12rem',
  text: (o) => Object.entries((o as Meta).labels ?? {}).map(([k, v]) => (v ? `${k}=${v}` : k)).join(', '),
})
const created = <K extends Kind>(): F<K> => ({ key: 'created', title: 'field.created', as: 'time', text: (o) => date((o as Meta).created), column: 'more', width: '9rem' })
const message = <T>(of: (o: T) => string | undefined): Field<T> => ({ key: 'message', title: 'field.message', text: (o) => of(o) ?? '', column: 'first', width: 'minmax(10rem, 2fr)', phone: 'line' })
const since = <T>(of: (o: T) => string | undefined): Field<T> => ({ key: 'since', title: 'field.since', as: 'time', text: (o) => date(of(o)), column: 'first', width: '9rem' })
const home = <K extends Kind>(column: F<K>['column'] = 'more'): F<K> => ({ key: 'home', title: 'field.home', text: (o) => (o as Meta).home ?? '', column, width: '7rem', href: (o) => pathTo('sites', (o as Meta).home) })
const state = <K extends Kind>(kind: K): F<K> => ({ key: 'state', title: 'field.state', as: 'state', text: (o) => nounOf(kind).state(o).join(' '), column: 'first', width: '9.5rem', phone: 'side' })

const phases = ['pending', 'starting', 'running', 'migrating', 'suspended', 'hibernating', 'hibernated', 'stopping', 'stopped', 'unknown', 'failed']
const up = (b: boolean, yes: string, no: string) => [b ? yes : no]

export const nouns: { [K in Kind]: Noun<K> } = {
  sites: {
    kind: 'sites', title: 'sites.title', one: 'sites.one', help: 'sites.help', states: ['reached', 'unreached'],
    state: (o) => up(o.status.self || o.status.reached, 'reached', 'unreached'),
    sites: (o) => [o.name],
    fields: [
      state('sites'),
      { key: 'self', title: 'field.self', text: (o) => yes(o.status.self), column: 'first', width: '8rem' },
      { key: 'rtt', title: 'field.rtt', text: (o) => (o.status.rtt_seconds ? duration(o.status.rtt_seconds) : ''), sort: (o) => o.status.rtt_seconds ?? 0, column: 'first', width: '7rem' },
      { key: 'free', title: 'field.free', text: (o) => amount(o.status.free), column: 'first', width: 'minmax(12rem, 2fr)', phone: 'line' },
      since((o) => o.status.since),
      { key: 'endpoint', title: 'field.endpoint', as: 'mono', text: (o) => o.spec.endpoint, column: 'more', width: '12rem' },
      message((o) => o.status.message),
    ],
  },
  hosts: {
    kind: 'hosts', title: 'hosts.title', one: 'hosts.one', help: 'hosts.help', admin: true, created: 'host', changed: true, deleted: true,
    states: ['up', 'down', 'cordoned'],
    state: (o) => [...up(o.status.connected, 'up', 'down'), ...(o.spec.cordoned ? ['cordoned'] : [])],
    hosts: (o) => [o.name],
    fields: [
      state('hosts'),
      { key: 'roles', title: 'field.roles', text: (o) => (o.spec.roles ?? []).map((r) => word('role', r)).join(', '), column: 'first', width: '9rem' },
      { key: 'allotted', title: 'field.allotted', text: (o) => amount(o.status.allotted), sort: (o) => o.status.allotted.memory_mib, column: 'first', width: 'minmax(11rem, 2fr)', phone: 'line' },
      { key: 'capacity', title: 'field.capacity', text: (o) => amount(o.status.capacity), sort: (o) => o.status.capacity.memory_mib, column: 'first', width: 'minmax(11rem, 2fr)' },
      since((o) => o.status.since),
      { key: 'hypervisor', title: 'field.hypervisor', text: (o) => o.status.hypervisor ?? '', column: 'more', width: '10rem' },
      { key: 'cpu', title: 'field.cpu', text: (o) => list([o.status.cpu.arch, o.status.cpu.accel, o.status.cpu.model]), column: 'more', width: '10rem' },
      { key: 'usable', title: 'field.usable', text: (o) => list(o.status.cpu.usable), column: 'never' },
      { key: 'vtep', title: 'field.vtep', as: 'mono', text: (o) => o.status.vtep ?? '', column: 'more', width: '12rem' },
      labels(), message((o) => o.status.message),
    ],
  },
  owners: {
    kind: 'owners', title: 'owners.title', one: 'owners.one', help: 'owners.help', created: 'form', changed: true, deleted: true, states: [], state: () => [],
    fields: [
      { key: 'title', title: 'field.title', text: (o) => o.spec.title ?? '', column: 'first', width: 'minmax(8rem, 1fr)', phone: 'line' },
      { key: 'used', title: 'field.used', text: (o) => amount(o.status.used), sort: (o) => o.status.used.memory_mib, column: 'first', width: 'minmax(11rem, 2fr)' },
      { key: 'quota', title: 'field.quota', text: (o) => (o.spec.quota ? amount(o.spec.quota) : t('word.unlimited')), column: 'first', width: 'minmax(11rem, 2fr)' },
      labels(), created(),
    ],
  },
  users: {
    kind: 'users', title: 'users.title', one: 'users.one', help: 'users.help', created: 'form', changed: true, deleted: true, states: [], state: () => [],
    fields: [
      owner(),
      { key: 'admin', title: 'field.admin', text: (o) => yes(o.spec.admin), column: 'first', width: '8rem', phone: 'side' },
      { key: 'tokens', title: 'field.tokens', text: (o) => number(o.status.tokens?.length ?? 0), sort: (o) => o.status.tokens?.length ?? 0, column: 'first', width: '8rem' },
      labels(), created(),
    ],
  },
  peers: {
    kind: 'peers', title: 'peers.title', one: 'peers.one', help: 'peers.help', admin: true, created: 'peer', changed: true, deleted: true,
    states: ['reached', 'unreached'],
    state: (o) => up(o.status.reached, 'reached', 'unreached'),
    sites: (o) => [o.name],
    fields: [
      state('peers'),
      { key: 'rtt', title: 'field.rtt', text: (o) => (o.status.rtt_seconds ? duration(o.status.rtt_seconds) : ''), sort: (o) => o.status.rtt_seconds ?? 0, column: 'first', width: '7rem' },
      { key: 'endpoint', title: 'field.endpoint', as: 'mono', text: (o) => o.spec.endpoint, column: 'first', width: 'minmax(10rem, 1fr)' },
      since((o) => o.status.since),
      { key: 'fingerprint', title: 'field.fingerprint', as: 'mono', text: (o) => o.spec.fingerprint, column: 'never' },
      message((o) => o.status.message),
    ],
  },
  offers: {
    kind: 'offers', title: 'offers.title', one: 'offers.one', help: 'offers.help', admin: true, created: 'form', changed: true, deleted: true, states: [], state: () => [],
    fields: [
      { ...home('first'), title: 'field.lender' } as F<'offers'>,
      { key: 'to', title: 'field.to', text: (o) => (o.spec.to ?? []).map((s) => (s === '*' ? t('word.everybody') : s)).join(', '), column: 'first', width: '8rem' },
      { key: 'limit', title: 'field.lend_limit', text: (o) => amount(o.spec.lend_limit), column: 'first', width: 'minmax(12rem, 2fr)', phone: 'line' },
      { key: 'borrow_limit', title: 'field.borrow_limit', text: (o) => (o.spec.borrow_limit ? amount(o.spec.borrow_limit) : ''), column: 'more', width: 'minmax(12rem, 2fr)' },
      { key: 'lent', title: 'field.lent', text: (o) => amount(o.status.lent), column: 'first', width: 'minmax(12rem, 2fr)' },
      { key: 'lease', title: 'field.lease', text: (o) => duration(o.spec.lease_seconds), sort: (o) => o.spec.lease_seconds, column: 'more', width: '7rem' },
      { key: 'grace', title: 'field.grace', text: (o) => duration(o.spec.grace_seconds), sort: (o) => o.spec.grace_seconds, column: 'more', width: '7rem' },
      { key: 'on_reclaim', title: 'field.on_reclaim', text: (o) => word('reclaim', o.spec.on_reclaim), column: 'never' },
      labels(),
    ],
  },
  loans: {
    kind: 'loans', title: 'loans.title', one: 'loans.one', help: 'loans.help', admin: true, created: 'loan', states: ['active', 'reclaimed', 'ended'],
    state: (o) => [o.status.state],
    sites: (o) => [o.spec.lender, o.spec.borrower],
    facets: { lender: (o) => [o.spec.lender], borrower: (o) => [o.spec.borrower] },
    fields: [
      state('loans'),
      { key: 'lender', title: 'field.lender', text: (o) => o.spec.lender, column: 'first', width: '7rem', href: (o) => pathTo('sites', o.spec.lender) },
      { key: 'borrower', title: 'field.borrower', text: (o) => o.spec.borrower, column: 'first', width: '7rem', href: (o) => pathTo('sites', o.spec.borrower) },
      { key: 'amount', title: 'field.amount', text: (o) => amount(o.spec.amount), column: 'first', width: 'minmax(12rem, 2fr)', phone: 'line' },
      { key: 'used', title: 'field.used', text: (o) => amount(o.status.used), column: 'first', width: 'minmax(12rem, 2fr)' },
      { key: 'expires', title: 'field.expires', as: 'time', text: (o) => date(o.status.expires), column: 'first', width: '9rem' },
      { key: 'renewed', title: 'field.renewed', as: 'time', text: (o) => date(o.status.renewed), column: 'more', width: '9rem' },
      { key: 'grace', title: 'field.grace', text: (o) => (o.status.grace_seconds ? duration(o.status.grace_seconds) : ''), column: 'more', width: '7rem' },
      { key: 'offer', title: 'field.offer', text: (o) => o.spec.offer, column: 'more', width: '8rem' },
      created(), message((o) => o.status.message),
    ],
  },
  images: {
    kind: 'images', title: 'images.title', one: 'images.one', help: 'images.help', created: 'form', changed: true, deleted: true, states: ['importing', 'ready', 'failed'],
    state: (o) => [o.status.phase],
    fields: [
      state('images'), owner(),
      { key: 'bytes', title: 'field.bytes', text: (o) => (o.status.bytes ? bytes(o.status.bytes) : ''), sort: (o) => o.status.bytes ?? 0, column: 'first', width: '7rem' },
      { key: 'virtual', title: 'field.virtual', text: (o) => (o.status.virtual_mib ? mib(o.status.virtual_mib) : ''), sort: (o) => o.status.virtual_mib ?? 0, column: 'first', width: '7rem' },
      { key: 'source', title: 'field.source', text: (o) => o.spec.source || (o.spec.vm ? t('images.of_vm', { vm: o.spec.vm, disk: o.spec.disk ?? 'root' }) : t('images.uploaded')), column: 'first', width: 'minmax(10rem, 2fr)', phone: 'line' },
      { key: 'format', title: 'field.format', text: (o) => o.status.format ?? o.spec.format ?? '', column: 'more', width: '6rem' },
      { key: 'digest', title: 'field.digest', as: 'mono', text: (o) => o.status.digest ?? o.spec.digest ?? '', column: 'never' },
      { key: 'job', title: 'field.job', text: (o) => o.status.job ?? '', column: 'more', width: '9rem', href: (o) => pathTo('jobs', o.status.job) },
      labels(), created(), message((o) => o.status.message),
    ],
  },
  volumes: {
    kind: 'volumes', title: 'volumes.title', one: 'volumes.one', help: 'volumes.help', created: 'form', changed: true, deleted: true,
    states: ['new', 'making', 'detached', 'attached', 'detaching', 'deleting', 'lost', 'own'],
    state: (o) => [o.status.phase],
    sites: (o) => [o.status.site], hosts: (o) => [o.status.host],
    facets: { vm: (o) => [o.status.vm] },
    fields: [
      state('volumes'), owner(),
      { key: 'vm', title: 'field.vm', text: (o) => o.status.vm ?? '', column: 'first', width: '10rem', href: (o) => pathTo('vms', o.status.vm) },
      { key: 'disk', title: 'field.disk_name', text: (o) => o.status.disk ?? '', column: 'first', width: '8rem' },
      { key: 'size', title: 'field.size', text: (o) => gib(o.spec.size_gib), sort: (o) => o.spec.size_gib, column: 'first', width: '7rem' },
      { key: 'allocated', title: 'field.allocated', text: (o) => (o.status.allocated_bytes ? bytes(o.status.allocated_bytes) : ''), sort: (o) => o.status.allocated_bytes ?? 0, column: 'first', width: '8rem' },
      { key: 'place', title: 'field.place', text: (o) => place(o.status.site, o.status.host), column: 'first', width: '9rem', phone: 'line' },
      { key: 'base', title: 'field.base', as: 'mono', text: (o) => o.status.image ?? '', column: 'never' },
      labels(), created(), message((o) => o.status.message),
    ],
  },
  networks: {
    kind: 'networks', title: 'networks.title', one: 'networks.one', help: 'networks.help', created: 'form', changed: true, deleted: true, states: [], state: () => [],
    sites: (o) => (o.status.members ?? []).map((m) => m.site), hosts: (o) => (o.status.members ?? []).map((m) => m.host),
    fields: [
      owner(),
      { key: 'prefix', title: 'field.prefix', as: 'mono', text: (o) => o.spec.prefix, column: 'first', width: 'minmax(12rem, 1fr)', phone: 'line' },
      { key: 'ipv4', title: 'field.ipv4', as: 'mono', text: (o) => o.spec.ipv4 ?? '', column: 'first', width: '9rem' },
      { key: 'members', title: 'field.members', text: (o) => (o.status.members ?? []).map((m) => place(m.site, m.host)).join(', '), column: 'first', width: 'minmax(10rem, 2fr)' },
      { key: 'mtu', title: 'field.mtu', text: (o) => (o.spec.mtu ? number(o.spec.mtu) : ''), sort: (o) => o.spec.mtu ?? 0, column: 'more', width: '5rem' },
      { key: 'vni', title: 'field.vni', text: (o) => (o.spec.vni ? String(o.spec.vni) : ''), sort: (o) => o.spec.vni ?? 0, column: 'more', width: '6rem' },
      { key: 'mobility', title: 'field.mobility', text: (o) => o.spec.mobility ?? '', column: 'more', width: '6rem' },
      { key: 'pool', title: 'field.pool', text: (o) => o.spec.pool ?? '', column: 'more', width: '7rem' },
      labels(), created(),
    ],
  },
  vms: {
    kind: 'vms', title: 'vms.title', one: 'vms.one', help: 'vms.help', created: 'vm', changed: true, deleted: true, states: phases,
    state: (o) => [o.status.phase || 'pending'],
    sites: (o) => [o.status.site], hosts: (o) => [o.status.host],
    facets: {
      network: (o) => [o.spec.network], image: (o) => [o.spec.image], loan: (o) => [o.status.loan],
      address: given,
    },
    fields: [
      state('vms'),
      { key: 'place', title: 'field.place', text: (o) => place(o.status.site, o.status.host), column: 'first', width: 'minmax(8rem, 1fr)', phone: 'line', href: (o) => pathTo('sites', o.status.site) },
      owner(),
      { key: 'cpus', title: 'field.cpus', text: (o) => number(o.spec.cpus), sort: (o) => o.spec.cpus, column: 'first', width: '5rem' },
      { key: 'memory', title: 'field.memory', text: (o) => mib(o.spec.memory_mib), sort: (o) => o.spec.memory_mib, column: 'first', width: '6.5rem' },
      { key: 'disk', title: 'field.disk', text: (o) => (o.spec.disk_gib ? gib(o.spec.disk_gib) : t('vm.image_size')), sort: (o) => o.spec.disk_gib ?? 0, column: 'more', width: '6.5rem' },
      { key: 'disks', title: 'field.disks', text: (o) => list((o.spec.disks ?? []).map((k) => `${k.name} ${gib(k.size_gib ?? 0)}`)), column: 'more', width: '9rem' },
      { key: 'pending', title: 'field.pending', text: (o) => list((o.status.pending ?? []).map((p) => `${p.field}: ${p.now || '–'} → ${p.wanted || '–'}`)), column: 'more', width: '10rem' },
      { key: 'addresses', title: 'field.addresses', as: 'mono', text: (o) => list(given(o)), column: 'first', width: 'minmax(12rem, 2fr)' },
      { key: 'network', title: 'field.network', text: (o) => o.spec.network, column: 'more', width: '8rem', href: (o) => pathTo('networks', o.spec.network) },
      { key: 'image', title: 'field.image', text: (o) => o.spec.image, column: 'more', width: '8rem', href: (o) => pathTo('images', o.spec.image) },
      { key: 'loan', title: 'field.loan', text: (o) => o.status.loan ?? '', column: 'more', width: '9rem', href: (o) => pathTo('loans', o.status.loan) },
      { key: 'job', title: 'field.job', text: (o) => o.status.job ?? '', column: 'more', width: '9rem', href: (o) => pathTo('jobs', o.status.job) },
      labels(), since((o) => o.status.since), created(),
      { key: 'mac', title: 'field.mac', as: 'mono', text: (o) => o.status.mac ?? '', column: 'more', width: '10rem' },
      { key: 'cpu', title: 'field.cpu', text: (o) => list([o.status.cpu?.arch, o.status.cpu?.accel, o.status.cpu?.model]), column: 'never' },
      { key: 'epoch', title: 'field.epoch', text: (o) => String(o.status.epoch), column: 'never' },
      { ...home('more') } as F<'vms'>,
      { ...message((o: Kinds['vms']) => o.status.message), column: 'more' },
    ],
  },
  guests: {
    kind: 'guests', title: 'guests.title', one: 'guests.one', help: 'guests.help', admin: true, states: phases,
    state: (o) => [o.status.phase], hosts: (o) => [o.spec.host],
    fields: [
      state('guests'),
      { key: 'vm', title: 'field.vm', text: (o) => o.spec.vm, column: 'first', width: '9rem' },
      home('first'), owner(),
      { key: 'host', title: 'field.host', text: (o) => o.spec.host, column: 'first', width: '7rem', phone: 'line', href: (o) => pathTo('hosts', o.spec.host) },
      { key: 'needs', title: 'field.needs', text: (o) => amount(o.spec.needs), column: 'first', width: 'minmax(12rem, 2fr)' },
      { key: 'loan', title: 'field.loan', text: (o) => o.spec.loan, column: 'more', width: '9rem', href: (o) => pathTo('loans', o.spec.loan) },
      since((o) => o.status.since), message((o) => o.status.message),
    ],
  },
  addresses: {
    kind: 'addresses', title: 'addresses.title', one: 'addresses.one', help: 'addresses.help', created: 'form', changed: true, deleted: true, states: ['bound', 'free'],
    state: (o) => up(!!o.spec.vm, 'bound', 'free'),
    facets: { vm: (o) => [o.spec.vm] },
    fields: [
      { key: 'address', title: 'field.address', as: 'mono', text: (o) => o.spec.address, column: 'first', width: 'minmax(10rem, 1fr)', phone: 'line' },
      state('addresses'),
      { key: 'vm', title: 'field.vm', text: (o) => o.spec.vm ?? '', column: 'first', width: '9rem', href: (o) => pathTo('vms', o.spec.vm) },
      owner(),
      { key: 'target', title: 'field.target', as: 'mono', text: (o) => o.status.target ?? '', column: 'more', width: '12rem' },
      { key: 'translators', title: 'field.translators', text: (o) => list(o.status.translators), column: 'first', width: 'minmax(9rem, 1fr)' },
      { key: 'refused', title: 'field.refused', text: (o) => (o.status.refused ?? []).map((r) => `${r.by}: ${r.message}`).join('; '), column: 'more', width: '12rem' },
      { key: 'pool', title: 'field.pool', text: (o) => o.spec.pool ?? '', column: 'more', width: '7rem' },
      labels(), created(),
    ],
  },
  translators: {
    kind: 'translators', title: 'translators.title', one: 'translators.one', help: 'translators.help', states: ['running', 'stopped'],
    state: (o) => up(o.status.running, 'running', 'stopped'), hosts: (o) => [o.spec.host],
    fields: [
      state('translators'),
      { key: 'host', title: 'field.host', text: (o) => o.spec.host, column: 'first', width: '9rem', href: (o) => pathTo('hosts', o.spec.host) },
      { key: 'mappings', title: 'field.mappings', text: (o) => number(o.status.mappings), sort: (o) => o.status.mappings, column: 'first', width: '8rem', phone: 'line' },
      message((o) => o.status.message),
    ],
  },
  jobs: {
    kind: 'jobs', title: 'jobs.title', one: 'jobs.one', help: 'jobs.help', states: ['running', 'undoing', 'done', 'failed', 'cancelled'],
    state: (o) => [o.status.state],
    sites: (o) => [o.spec.target?.split('/')[0]], hosts: (o) => [o.spec.target?.split('/')[1]],
    facets: { type: (o) => [o.spec.type], by: (o) => [o.spec.by], parent: (o) => [o.spec.parent], vm: (o) => (o.spec.object.startsWith('vms/') ? [o.spec.object.slice(4)] : []) },
    fields: [
      { key: 'type', title: 'field.type', text: (o) => jobType(o), column: 'first', width: '8rem' },
      { key: 'object', title: 'field.object', text: (o) => (o.status.bulk ? count('bulk.vms', o.status.bulk.total) : o.spec.object), column: 'first', width: 'minmax(9rem, 1fr)', href: (o) => hrefOf(o.spec.object), phone: 'line' },
      { key: 'target', title: 'field.target_place', text: (o) => o.spec.target ?? '', column: 'first', width: '8rem' },
      state('jobs'),
      { key: 'step', title: 'field.step', text: (o) => (o.status.step ? word('step', o.status.step) : ''), column: 'first', width: '9rem' },
      { key: 'rate', title: 'field.rate', text: (o) => (o.status.state === 'running' && o.status.progress.rate_bytes_per_second ? rate(o.status.progress.rate_bytes_per_second) : ''), column: 'more', width: '8rem' },
      { key: 'by', title: 'field.by', text: (o) => o.spec.by ?? '', column: 'first', width: '8rem' },
      { key: 'started', title: 'field.started', as: 'time', text: (o) => date(o.status.started), column: 'first', width: '9rem' },
      { key: 'took', title: 'field.took', column: 'first', width: '7rem',
        text: (o) => { const a = timeOf(o.status.started), b = timeOf(o.status.ended); return a && b ? duration((b.getTime() - a.getTime()) / 1000) : '' },
        sort: (o) => { const a = timeOf(o.status.started), b = timeOf(o.status.ended); return a && b ? b.getTime() - a.getTime() : 0 } },
      owner('more'), message((o) => o.status.message),
    ],
  },
  notices: {
    kind: 'notices', title: 'notice.title', one: 'notice.one', help: 'notice.help', created: 'form', changed: true, deleted: true, states: ['planned', 'shown', 'ended'],
    state: (o) => [o.status.state],
    facets: { level: (o) => [o.spec.level] },
    fields: [
      { key: 'title', title: 'field.title', text: (o) => o.spec.title, column: 'first', width: 'minmax(12rem, 2fr)', phone: 'line' },
      state('notices'),
      { key: 'level', title: 'field.level', text: (o) => word('level', o.spec.level ?? 'info'), column: 'first', width: '7rem' },
      { key: 'from', title: 'field.from', as: 'time', text: (o) => date(o.spec.from), column: 'first', width: '9rem' },
      { key: 'until', title: 'field.until', as: 'time', text: (o) => date(o.spec.until), column: 'first', width: '9rem' },
      { key: 'audience', title: 'field.audience', text: (o) => (o as Meta).owner || list(o.spec.owners) || t('word.everybody'), column: 'first', width: '10rem' },
      { key: 'text', title: 'field.text', text: (o) => o.spec.text ?? '', column: 'more', width: 'minmax(12rem, 3fr)' },
      owner('more'), labels(), created(),
    ],
  },
  events: {
    kind: 'events', title: 'events.title', one: 'events.one', help: 'events.help', states: [], state: () => [], lead: 'type',
    facets: { type: (o) => [o.type], object: (o) => [o.object], actor: (o) => [o.actor] },
    fields: [
      { key: 'time', title: 'field.time', as: 'time', text: (o) => date(o.time), column: 'first', width: '9rem', phone: 'side' },
      { key: 'type', title: 'field.type', as: 'mono', text: (o) => o.type, column: 'first', width: '10rem' },
      { key: 'object', title: 'field.object', text: (o) => o.object, column: 'first', width: '12rem', href: (o) => hrefOf(o.object), phone: 'line' },
      { key: 'actor', title: 'field.actor', text: (o) => o.actor || t('events.site_itself'), column: 'first', width: '8rem' },
      message((o) => o.message), owner('more'),
    ],
  },
}

export function nounOf<K extends Kind>(kind: K): Noun<K> {
  return nouns[kind] as unknown as Noun<K>
}

export const isKind = (text: string): text is Kind => Object.hasOwn(nouns, text)

/** The qualifiers that a search of a kind has. */
export function searchKeys(kind: Kind): string[] {
  const n = nounOf(kind)
  const keys = ['label', 'name']
  if (n.fields.some((f) => f.key === 'owner')) keys.push('owner')
  if (n.states.length) keys.push('state')
  if (n.sites) keys.push('site')
  if (n.hosts) keys.push('host')
  return [...keys, ...Object.keys(n.facets ?? {})]
}
