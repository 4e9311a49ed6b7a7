// What users fill in of each kind of object. What is left out here can be written as YAML or JSON all the same.
import type { Key } from './i18n.svelte.ts'
import type { Kind } from './types.ts'

export interface Input {
  path: string // of the object: spec.cpus
  title: Key
  as: 'text' | 'paragraph' | 'time' | 'number' | 'bool' | 'lines' | 'labels' | 'choice' | 'object' | 'resources' | 'disks'
  help?: Key
  options?: string[] // of a choice
  words?: string // the group of messages that says what the options are
  of?: Kind // of an object: which kind
  required?: boolean
  creation?: boolean // only then
}

const owner: Input = { path: 'owner', title: 'field.owner', as: 'object', of: 'owners', creation: true, help: 'form.owner_help' }
const labels: Input = { path: 'labels', title: 'field.labels', as: 'labels', help: 'form.labels_help' }
/** Disks of a VM beside its root disk. */
export const disks: Input = { path: 'spec.disks', title: 'field.disks', as: 'disks', help: 'form.disks_help' }
const pool: Input = { path: 'spec.pool', title: 'field.pool', as: 'text', creation: true, help: 'form.pool_help' }

export const forms: Partial<Record<Kind, Input[]>> = {
  owners: [
    { path: 'spec.title', title: 'field.title', as: 'text' },
    { path: 'spec.quota', title: 'field.quota', as: 'resources', help: 'form.quota_help' },
    labels,
  ],
  users: [{ ...owner, help: 'form.user_owner_help' }, { path: 'spec.admin', title: 'field.admin', as: 'bool', help: 'form.admin_help' }, labels],
  hosts: [{ path: 'spec.cordoned', title: 'field.cordoned', as: 'bool', help: 'form.cordoned_help' }, labels],
  peers: [{ path: 'spec.endpoint', title: 'field.endpoint', as: 'text' }, labels],
  offers: [
    { path: 'spec.to', title: 'field.to', as: 'lines', required: true, help: 'form.to_help' },
    { path: 'spec.lend_limit', title: 'field.lend_limit', as: 'resources', required: true, help: 'form.lend_limit_help' },
    { path: 'spec.borrow_limit', title: 'field.borrow_limit', as: 'resources', help: 'form.borrow_limit_help' },
    { path: 'spec.lease_seconds', title: 'field.lease_seconds', as: 'number', help: 'form.lease_help' },
    { path: 'spec.grace_seconds', title: 'field.grace_seconds', as: 'number', help: 'form.grace_help' },
    { path: 'spec.on_reclaim', title: 'field.on_reclaim', as: 'choice', options: ['stop'], words: 'reclaim' },
    labels,
  ],
  images: [
    owner,
    { path: 'spec.source', title: 'field.source', as: 'text', creation: true, help: 'form.source_help' },
    { path: 'spec.vm', title: 'field.vm', as: 'text', creation: true, help: 'form.image_vm_help' },
    { path: 'spec.disk', title: 'field.disk_name', as: 'text', creation: true, help: 'form.image_disk_help' },
    { path: 'spec.format', title: 'field.format', as: 'choice', options: ['qcow2', 'raw'], creation: true },
    { path: 'spec.digest', title: 'field.digest', as: 'text', creation: true, help: 'form.digest_help' },
    labels,
  ],
  networks: [
    owner,
    { path: 'spec.prefix', title: 'field.prefix', as: 'text', creation: true, help: 'form.prefix_help' },
    { path: 'spec.ipv4', title: 'field.ipv4', as: 'text', help: 'form.ipv4_help' },
    pool,
    { path: 'spec.mtu', title: 'field.mtu', as: 'number', help: 'form.mtu_help' },
    labels,
  ],
  volumes: [
    owner,
    { path: 'spec.size_gib', title: 'field.size_gib', as: 'number', required: true, help: 'form.volume_size_help' },
    { path: 'spec.place', title: 'field.place', as: 'text', creation: true, help: 'form.volume_place_help' },
    labels,
  ],
  notices: [
    { ...owner, help: 'form.notice_owner_help' },
    { path: 'spec.title', title: 'field.title', as: 'text', required: true },
    { path: 'spec.text', title: 'field.text', as: 'paragraph', help: 'form.notice_text_help' },
    { path: 'spec.level', title: 'field.level', as: 'choice', options: ['info', 'warning', 'urgent'], words: 'level' },
    { path: 'spec.from', title: 'field.from', as: 'time', help: 'form.notice_from_help' },
    { path: 'spec.until', title: 'field.until', as: 'time', help: 'form.notice_until_help' },
    { path: 'spec.owners', title: 'field.audience', as: 'lines', help: 'form.notice_audience_help' },
    labels,
  ],
  addresses: [
    owner,
    { path: 'spec.address', title: 'field.address', as: 'text', creation: true, help: 'form.address_help' },
    pool,
    { path: 'spec.vm', title: 'field.vm', as: 'object', of: 'vms', help: 'form.address_vm_help' },
    labels,
  ],
  vms: [
    { path: 'spec.power', title: 'field.power', as: 'choice', options: ['on', 'suspended', 'hibernated', 'off', 'off-hard'], words: 'power' },
    { path: 'spec.cpus', title: 'field.cpus', as: 'number', required: true, help: 'form.resize_help' },
    { path: 'spec.memory_mib', title: 'field.memory_mib', as: 'number', required: true },
    { path: 'spec.disk_gib', title: 'field.disk_gib', as: 'number', help: 'form.grow_help' },
    disks,
    { path: 'spec.sites', title: 'field.permit', as: 'lines', help: 'form.permit_help' },
    labels,
  ],
}

/** What a new object begins with. */
export const beginnings: Partial<Record<Kind, object>> = {
  offers: { spec: { to: ['*'], lend_limit: { cpus: 0, memory_mib: 0, disk_gib: 0, addresses: 0 }, lease_seconds: 60, grace_seconds: 120, on_reclaim: 'stop' } },
  hosts: { spec: {} },
}
