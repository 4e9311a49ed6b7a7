// What a browser keeps of the notices that were put away there.

/** How many are kept. */
export const most = 200

/** What is kept, or nothing where it is not what this page wrote. */
export function read(text: string | null): string[] {
  try {
    const list: unknown = JSON.parse(text ?? '[]')
    return Array.isArray(list) ? list.filter((x): x is string => typeof x === 'string').slice(-most) : []
  } catch {
    return []
  }
}
