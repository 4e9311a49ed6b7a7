// What the page's modules want of a browser when they are loaded.
Object.defineProperty(globalThis, 'navigator', { value: { languages: ['en'] }, configurable: true })
