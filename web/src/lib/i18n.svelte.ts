// The page's words. messages/en.json and messages/ja.json have all of them; no sentence is in code.
import type en from '../messages/en.json'
import { settings, type Language } from './settings.svelte.ts'

export type Key = keyof typeof en
/** A key whose message depends on a number: KEY.one, KEY.other. */
export type CountKey = Key extends infer K ? (K extends `${infer Base}.other` ? Base : never) : never
export type Params = Record<string, string | number>

type Catalogue = Record<string, string>

const load: Record<Language, () => Promise<{ default: Catalogue }>> = {
  en: () => import('../messages/en.json'),
  ja: () => import('../messages/ja.json'),
}

let words = $state.raw<Catalogue>({})

/** Fetches the language's words. */
export async function speak(language: Language) {
  words = (await load[language]()).default
}

function fill(text: string, params: Params): string {
  return text.replace(/\{(\w+)\}/g, (all, name: string) => (name in params ? String(params[name]) : all))
}

/** The message of a key. */
export function t(key: Key, params: Params = {}): string {
  return fill(words[key] ?? key, params)
}

/** The message of a key for a number, which it has as {n}. */
export function count(key: CountKey, n: number, params: Params = {}): string {
  const form = new Intl.PluralRules(settings.language).select(n)
  const text = words[`${key}.${form}`] ?? words[`${key}.other`] ?? key
  return fill(text, { n: n.toLocaleString(settings.language), ...params })
}

/** The message for a word of the API (a state, a step), or the word itself when there is none: a newer controller may have others. */
export function word(group: string, value: string): string {
  return words[`${group}.${value}`] ?? value
}
