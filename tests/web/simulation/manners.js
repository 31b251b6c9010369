// How a client treats the broker: it comes back no earlier than it was told, tries no more often
// than it says, and stays away when it was refused.

/** A line that lasted so long is good; at the latest, where lines follow each other. */
const GOOD_MS = 10_000;
const SURELY_GOOD_MS = 60_000;
/** Without a failure for so long after a pause, counting begins anew. */
const WELL_MS = 59_000;
/** What a stream that breaks off is said to have ended with; it may have said when to come back. */
const STREAM_ENDS = ["cut", "cut off"];
const STREAM_RETRY_MS = 2_000;
/** The longest pause by chance, and the first one. */
const LONGEST_PAUSE_MS = 30_000;
const FIRST_PAUSE_MS = 500;
/** A pause that was asked for may be longer by half. */
const LONGER = 1.5;
/** Refusals of a credential in a row: of two tokens, and some of a line that has ended. */
const MOST_DENIALS = 4;
/** What the fake broker says of a token; told by a client, it was said of another token as well. */
const TWICE_REFUSED = "the token has expired";
/** What a client says of a page in the cache of pages, or a frozen one. */
const ASLEEP = "the page sleeps";
/** Requests within a time, publishes apart. */
const MOST_REQUESTS = 60;
const WINDOW_MS = 10_000;

/** Watches what a tab does that shares nothing. */
export class Manners {
  #notBeforeMs = 0;
  #fails = 0;
  #untilMs = 0; // The end of the last pause.
  #goodSinceMs;
  #isUnsure = false; // Whether the page may have missed that its line is good.
  #denials = 0;
  #requests = [];
  #isStopped = false;

  constructor(tab, world, complain) {
    Object.assign(this, { tab, world, complain });
  }

  /** A person, or the page coming back, forces a try: pauses do not count any more. */
  forced() {
    this.#notBeforeMs = 0;
    this.#denials = 0;
    this.#isStopped = false;
  }

  /** Timers have stood still, or the clock on the wall was set. */
  disturbed() {
    this.#notBeforeMs = 0;
    this.#isUnsure = true;
  }

  /** The time for which the line is good, as far as the tab has told. */
  #goodMs() {
    return this.world.clock.passed - (this.#goodSinceMs ?? Infinity);
  }

  /** A request that opens a line, or polls, goes out. */
  asks(what) {
    const { passed } = this.world.clock;
    const { transport } = this.tab.leftoff?.connection ?? {};
    if (transport === null && passed < this.#notBeforeMs) {
      this.complain(`${what} comes ${this.#notBeforeMs - passed} ms too early`);
    }
    if (this.#isStopped) {
      this.complain(`${what} comes though nobody has asked for another try`);
    }
    this.#requests = this.#requests.filter((at) => at > passed - WINDOW_MS);
    if (this.#requests.push(passed) === MOST_REQUESTS) {
      this.complain(`${MOST_REQUESTS} requests in ${passed - this.#requests[0]} ms`);
    }
  }

  /** The broker has refused the credential: in an answer, or by an end. */
  denied() {
    if (this.#goodMs() > GOOD_MS - 100) {
      this.#denials = 0;
    }
    const isUp = this.tab.leftoff.connection.transport !== null;
    if (!isUp && ++this.#denials > MOST_DENIALS) {
      this.complain(`the credential was refused ${this.#denials} times in a row`);
      this.#denials = 0;
    }
  }

  told({ state, reason, nextTryAt, attempt, transport }) {
    const { clock, hints } = this.world;
    const pauseMs = nextTryAt - clock.now;
    // A page that sleeps comes back in any case.
    if (this.#isStopped && reason !== ASLEEP) {
      this.complain(`${state} though nobody has asked for another try`);
    }
    this.#isStopped = state === "closed" || state === "denied";
    if (reason === "expired" && nextTryAt !== null) {
      this.denied();
    }
    if (reason === TWICE_REFUSED && nextTryAt !== null) {
      this.complain("it comes back though two tokens were refused");
    }
    if (nextTryAt !== null) {
      const least = hints.get(reason) ?? 0;
      const most = Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** (attempt - 1));
      this.#notBeforeMs = clock.passed + least;
      const more = STREAM_ENDS.includes(reason) ? STREAM_RETRY_MS : 2 * least;
      if (pauseMs < least - 1 || pauseMs > most + more * LONGER + 1) {
        this.complain(`${state} for ${pauseMs} ms after "${reason}", attempt ${attempt}`);
      }
      this.#countFail(attempt);
      this.#untilMs = clock.passed + pauseMs;
    }
    // A page that sleeps says how many tries there were, and nothing of the health before.
    this.#isUnsure ||= transport === null && nextTryAt === null && this.#goodSinceMs !== undefined;
    this.#goodSinceMs = transport === null ? undefined : (this.#goodSinceMs ?? clock.passed);
    this.#denials = this.#isStopped ? 0 : this.#denials;
  }

  /** Only a line that lasted ends the counting. */
  #countFail(attempt) {
    const goodMs = this.#goodMs();
    const isReset = goodMs > SURELY_GOOD_MS;
    const isOld = this.world.clock.passed - this.#untilMs > WELL_MS;
    const isCounted = !isOld && (this.#goodSinceMs === undefined || goodMs < GOOD_MS - 100);
    const isWrong = (isReset && attempt !== 1) || (isCounted && attempt !== this.#fails + 1);
    if (isWrong && !this.#isUnsure) {
      this.complain(`attempt ${attempt} after ${this.#fails}, and ${goodMs} ms of health`);
    }
    this.#isUnsure = false;
    this.#fails = attempt;
  }
}
