// The time, for what is shown as "3 min ago".
class Clock {
  now = $state(Date.now())

  constructor() {
    setInterval(() => (this.now = Date.now()), 1000)
  }
}

export const clock = new Clock()
