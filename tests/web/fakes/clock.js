// A clock that stands still until a test moves it, and chance that a seed decides.

/** Lets everything run that waits for no timer. */
export async function settle() {
  for (let turn = 0; turn < 3; turn++) {
    await new Promise((done) => setImmediate(done));
  }
}

/** Returns chance that is the same for the same seed: mulberry32. */
export function chance(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** The time of all pages and brokers of a test. */
export class Clock {
  #timers = new Map();
  #last = 0;
  /** The time that has passed, by which timers go; and what the clock on the wall shows besides. */
  #passed = 0;
  #offset = Date.UTC(2026, 0, 31);

  get now() {
    return this.#passed + this.#offset;
  }

  /** The time that has passed since the clock was made, whatever the clock on the wall shows. */
  get passed() {
    return this.#passed;
  }

  /** Sets the clock on the wall, or lets the time of a sleep pass. Timers do not notice. */
  jump(ms) {
    this.#offset += ms;
  }

  /**
   * Sets a timer. `owner` is the page that it belongs to: the timers of a frozen page wait. A time
   * that does not fit into 31 bits is none, as it is in a browser.
   */
  set(run, ms, owner) {
    const timer = ++this.#last;
    const delayMs = ms < 2 ** 31 ? Math.max(0, Number(ms)) : 0;
    this.#timers.set(timer, { at: this.#passed + delayMs, timer, run, owner });
    return timer;
  }

  clear(timer) {
    this.#timers.delete(timer);
  }

  /** The number of timers that a page has set. */
  timersOf(page) {
    return [...this.#timers.values()].filter(({ owner }) => owner === page).length;
  }

  /** Waits for a time. */
  wait(ms) {
    return new Promise((done) => this.set(done, ms));
  }

  /** Moves on, and runs each timer at its time. */
  async advance(ms) {
    const end = this.#passed + ms;
    for (;;) {
      await settle();
      let next;
      for (const timer of this.#timers.values()) {
        const isFirst = timer.at <= end && (!next || timer.at < next.at);
        if (isFirst && !timer.owner?.isFrozen) {
          next = timer; // Of two at the same time, the one that was set first.
        }
      }
      if (!next) {
        break;
      }
      this.#timers.delete(next.timer);
      this.#passed = Math.max(this.#passed, next.at);
      next.run();
    }
    this.#passed = end;
    await settle();
  }
}
