// The API's types, made from its OpenAPI description (types.gen.ts), under short names.
import type { components } from './types.gen.ts'

type Schemas = components['schemas']

export type Site = Schemas['Site']
export type Host = Schemas['Host']
export type Owner = Schemas['Owner']
export type User = Schemas['User']
export type Peer = Schemas['Peer']
export type Offer = Schemas['Offer']
export type Loan = Schemas['Loan']
export type Image = Schemas['Image']
export type Volume = Schemas['Volume']
export type Network = Schemas['Network']
export type VM = Schemas['VM']
export type Guest = Schemas['Guest']
export type Address = Schemas['Address']
export type Translator = Schemas['Translator']
export type Job = Schemas['Job']
export type Event = Schemas['Event']
export type Notice = Schemas['Notice']
export type Reason = Schemas['Reason']
export type Resources = Schemas['Resources']
export type Progress = Schemas['Progress']
export type Usage = Schemas['Usage']
export type Sample = Schemas['Sample']
export type Ledger = Schemas['Ledger']
export type LedgerDay = Schemas['LedgerDay']
export type Hours = Schemas['Hours']
export type Traffic = Schemas['Traffic']
export type UserToken = Schemas['UserToken']
export type MigrateResult = Schemas['MigrateResult']
export type Ticket = Schemas['Ticket']
export type WhyResult = Schemas['WhyResult']
export type VMDryRun = Schemas['VMDryRun']
export type PlaceVerdict = Schemas['PlaceVerdict']
export type BulkAction = 'start' | 'stop' | 'reboot' | 'delete' | 'move'
export type BulkResult = Schemas['BulkResult']
export type BulkResults = Schemas['BulkResults']

export type Finding = Schemas['Finding']
export type Diagnosis = Schemas['Diagnosis']
export type Setting = Schemas['Setting']
export type Audit = Schemas['Audit']
export type AuditEntry = Schemas['AuditEntry']

/** What every object has. */
export interface Meta {
  name: string
  uid?: string
  owner?: string
  home?: string
  labels?: Record<string, string>
  revision?: number
  created?: string
  deleting?: boolean
}

/** The kinds, as the API's paths have them. */
export interface Kinds {
  sites: Site
  hosts: Host
  owners: Owner
  users: User
  peers: Peer
  offers: Offer
  loans: Loan
  images: Image
  volumes: Volume
  networks: Network
  vms: VM
  guests: Guest
  addresses: Address
  translators: Translator
  jobs: Job
  events: Event
  notices: Notice
}
export type Kind = keyof Kinds

/** Who is logged in (GET /v1/session). */
export type Session = Schemas['Session']
