// What a user has chosen for this browser.
export type Theme = 'system' | 'light' | 'dark'
export type Language = 'en' | 'ja'

interface Saved {
  theme: Theme
  language: Language
  shortcuts: boolean
  columns: Record<string, string[]> // of each list
  views: Record<string, { name: string; query: string }[]> // saved searches of each list
}

const key = 'widecloud'

function browserLanguage(): Language {
  return navigator.languages.find((l) => /^(en|ja)\b/.test(l))?.startsWith('ja') ? 'ja' : 'en'
}

function load(): Saved {
  const usual: Saved = { theme: 'system', language: browserLanguage(), shortcuts: true, columns: {}, views: {} }
  try {
    return { ...usual, ...JSON.parse(localStorage.getItem(key) ?? '{}') }
  } catch {
    return usual // no storage, or not ours
  }
}

export const settings = $state(load())

/** Shows the settings, and keeps them when they change. To be called while the page is made. */
export function useSettings() {
  $effect(() => {
    document.documentElement.dataset.theme = settings.theme
    document.documentElement.lang = settings.language
    try {
      localStorage.setItem(key, JSON.stringify(settings))
    } catch {
      // no storage: they hold until the page is left
    }
  })
}
