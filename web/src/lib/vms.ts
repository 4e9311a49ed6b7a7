// What users do with VMs.
import { call, pathOf } from './api.ts'
import type { BulkAction, BulkResult, BulkResults, Job, Meta, MigrateResult, Reason, VM, VMDryRun, WhyResult } from './types.ts'

export type Power = 'on' | 'off' | 'off-hard' | 'suspended' | 'hibernated'

export const setPower = (name: string, power: Power) => call<VM>('PATCH', pathOf('vms', name), { body: { spec: { power } }, patch: true })
export const reboot = (name: string, hard: boolean) => call<void>('POST', pathOf('vms', name, 'reboot'), { body: { hard } })
export const remove = (name: string, revision?: number) => call<VM>('DELETE', pathOf('vms', name), { revision })

/** Begins a migration. Its refusal is an ApiError with all reasons. */
export async function migrate(name: string, target: string): Promise<Job | undefined> {
  return (await call<MigrateResult>('POST', pathOf('vms', name, 'migrate'), { body: { target } })).job
}

/** Why a VM cannot migrate to a target; none: it can. */
export async function preflight(name: string, target: string, signal?: AbortSignal): Promise<Reason[]> {
  return (await call<MigrateResult>('POST', pathOf('vms', name, 'migrate'), { body: { target, dry_run: true }, signal })).reasons ?? []
}

/** Why a VM is where it is, or is not at a place. */
export async function why(name: string, not: string, signal?: AbortSignal): Promise<Reason[]> {
  return (await call<WhyResult>('GET', pathOf('vms', name, 'why'), { query: { not }, signal })).reasons ?? []
}

/** What the creation of a VM would come to. Its refusal is in the answer. */
export const dryRun = (draft: unknown, signal: AbortSignal) => call<VMDryRun>('POST', '/v1/vms/dry-run', { body: draft, signal })

/** Begins a job that does one thing to many VMs. */
export const bulk = (action: BulkAction, vms: string[], target?: string) => call<Job & Meta>('POST', '/v1/bulk', { body: { action, vms, ...(target ? { target } : {}) } })

/** What became of each VM of such a job so far. */
export async function bulkResults(job: string, signal: AbortSignal): Promise<BulkResult[]> {
  return (await call<BulkResults>('GET', pathOf('jobs', job, 'results'), { signal })).items ?? []
}

/** What a person can do with a VM now. */
export function can(vm: VM): Record<'start' | 'stop' | 'suspend' | 'hibernate' | 'resume' | 'discard' | 'reboot' | 'migrate' | 'console' | 'image' | 'remove', boolean> {
  const phase = vm.status.phase
  const gone = !!vm.deleting
  return {
    start: !gone && vm.spec.power !== 'on' && !['suspended', 'hibernating', 'hibernated'].includes(phase),
    stop: !gone && (vm.spec.power === 'on' || phase === 'running' || phase === 'suspended' || phase === 'stopping'),
    suspend: !gone && !vm.status.job && phase === 'running' && vm.spec.power === 'on',
    hibernate: !gone && !vm.status.job && (phase === 'suspended' || (phase === 'running' && vm.spec.power === 'on')),
    resume: !gone && (phase === 'suspended' || phase === 'hibernated'),
    discard: !gone && phase === 'hibernated',
    reboot: !gone && phase === 'running',
    migrate: !gone && !vm.status.job && ['running', 'hibernated', 'stopped'].includes(phase),
    console: !gone && (phase === 'running' || phase === 'migrating' || phase === 'suspended' || phase === 'starting'),
    image: !gone && !vm.status.job && phase === 'stopped' && !!vm.status.host,
    remove: !gone,
  }
}
