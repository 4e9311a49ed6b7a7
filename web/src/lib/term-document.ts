// xterm.js writes <style> elements and style attributes, which the page's policy forbids. What scripts may do instead is
// CSSOM: sheets that are constructed, and declarations that are set.

/** A document for xterm.js's documentOverride. */
export function policyDocument(): Document {
  return new Proxy(document, {
    get(target, key) {
      if (key === 'createElement') return createElement
      const value: unknown = Reflect.get(target, key, target)
      return typeof value === 'function' ? value.bind(target) : value
    },
  })
}

/** Calls f, which makes elements by the page's own document, too: parts of xterm.js do not heed documentOverride. */
export function underPolicy(f: () => void) {
  document.createElement = createElement as typeof document.createElement
  try {
    f()
  } finally {
    delete (document as Partial<Document>).createElement // its prototype's is there again
  }
}

function createElement(name: string): HTMLElement {
  return name === 'style' ? sheet() : withStyle(make(name))
}

const make = (name: string) => Document.prototype.createElement.call(document, name)

/** An element whose attribute style may be written. */
function withStyle(element: HTMLElement): HTMLElement {
  element.setAttribute = (name: string, value: string) => {
    if (name === 'style') element.style.cssText = value
    else Element.prototype.setAttribute.call(element, name, value)
  }
  return element
}

/** What looks like a <style> to who writes its text. */
function sheet(): HTMLElement {
  const element = make('span')
  const rules = new CSSStyleSheet()
  element.hidden = true
  document.adoptedStyleSheets = [...document.adoptedStyleSheets, rules]
  let text = ''
  Object.defineProperty(element, 'textContent', {
    get: () => text,
    set: (value: string) => {
      text = value
      rules.replaceSync(value)
    },
  })
  element.remove = () => {
    document.adoptedStyleSheets = document.adoptedStyleSheets.filter((s) => s !== rules)
    Element.prototype.remove.call(element)
  }
  return element
}
