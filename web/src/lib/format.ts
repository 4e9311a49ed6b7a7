// Figures and times as people read them, in the user's language and zone.
import { settings } from './settings.svelte.ts'

const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB']

export function bytes(n: number): string {
  let unit = 0
  while (n >= 1024 && unit < units.length - 1) {
    n /= 1024
    unit++
  }
  const digits = unit === 0 || n >= 100 || Number.isInteger(n) ? 0 : 1
  return `${n.toLocaleString(settings.language, { maximumFractionDigits: digits })} ${units[unit]}`
}

export const mib = (n: number) => bytes(n * 1024 * 1024)
export const gib = (n: number) => bytes(n * 1024 ** 3)
export const rate = (n: number) => `${bytes(n)}/s`

export function number(n: number, digits = 0): string {
  return n.toLocaleString(settings.language, { maximumFractionDigits: digits })
}

/** A length of time in seconds: 1.2 s, 3 min 20 s, 2 h 5 min. */
export function duration(seconds: number): string {
  const of = (n: number, unit: 'second' | 'minute' | 'hour' | 'day', digits = 0) =>
    new Intl.NumberFormat(settings.language, { style: 'unit', unit, unitDisplay: 'short', maximumFractionDigits: digits }).format(n)
  if (seconds <= 0) return of(0, 'second')
  if (seconds < 1) return new Intl.NumberFormat(settings.language, { style: 'unit', unit: 'millisecond', unitDisplay: 'short', maximumFractionDigits: seconds < 0.01 ? 1 : 0 }).format(seconds * 1000)
  if (seconds < 60) return of(seconds, 'second', seconds < 10 ? 1 : 0)
  const s = Math.round(seconds)
  if (s < 3600) return `${of(Math.floor(s / 60), 'minute')} ${of(s % 60, 'second')}`
  if (s < 86400) return `${of(Math.floor(s / 3600), 'hour')} ${of(Math.floor((s % 3600) / 60), 'minute')}`
  return `${of(Math.floor(s / 86400), 'day')} ${of(Math.floor((s % 86400) / 3600), 'hour')}`
}

/** A time that the API has; undefined for none and for its zero. */
export function timeOf(text: string | undefined): Date | undefined {
  if (!text || text.startsWith('0001-')) return undefined
  const d = new Date(text)
  return Number.isNaN(d.getTime()) ? undefined : d
}

/** Date and time in the user's zone. */
export function moment(d: Date): string {
  return d.toLocaleString(settings.language, { dateStyle: 'medium', timeStyle: 'medium' })
}

/** A time of an axis, in seconds since 1970: the hour, and at midnight the day. */
export function timeAxis(seconds: number): string {
  const d = new Date(seconds * 1000)
  if (d.getHours() === 0 && d.getMinutes() === 0) return d.toLocaleDateString(settings.language, { month: 'short', day: 'numeric' })
  return d.toLocaleTimeString(settings.language, { hour: '2-digit', minute: '2-digit' })
}

/** A day of UTC that the API has: 2026-11-30. */
export function day(text: string): string {
  return new Date(`${text}T00:00:00Z`).toLocaleDateString(settings.language, { timeZone: 'UTC', year: 'numeric', month: 'short', day: 'numeric' })
}

/** How long ago a time is, roughly. */
export function ago(d: Date, now: number): string {
  const s = Math.round((d.getTime() - now) / 1000)
  const f = new Intl.RelativeTimeFormat(settings.language, { numeric: 'auto', style: 'short' })
  const size = Math.abs(s)
  if (size < 60) return f.format(s, 'second')
  if (size < 3600) return f.format(Math.round(s / 60), 'minute')
  if (size < 86400) return f.format(Math.round(s / 3600), 'hour')
  return f.format(Math.round(s / 86400), 'day')
}
