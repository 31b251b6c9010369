// The model of a tab's states: none is good while nothing can arrive, none says what is not so,
// and none stands still.

/** The time from one look to the next, and for what is under way. */
const LOOK_MS = 2_500;
/** The time for which a message may be late at the edge. */
const LATE_MS = 4_000;
/** The longest poll, and the time for its answer, as the client has them. */
const POLL_MS = 35_000;
/** The times in which a transport is tried, and a line in doubt is heard, with leeway. */
const OPEN_MS = 12_000;
const DOUBT_MS = 8_500;
/** Another tab takes over when so much time was without an answer; more in hidden tabs. */
const TAKEOVER_MS = 3_000;
const HIDDEN_TAKEOVER_MS = 21_000;

const TRYING = ["connecting", "reconnecting", "offline"];
const isGood = ({ state }) => state === "connected" || state === "polling";

/** Watches the state of a tab. */
export class StateModel {
  #told = { state: "connecting" };
  #toldAtMs = 0;
  #deadSinceMs;
  #doubtedAtMs;
  #mustNoticeAtMs = Infinity; // The time at which a line that is in doubt is not good any more.
  #nextAtMs; // The time of the next try that was told, by the clock of timers.
  #tryingSinceMs;
  #wasGood = false;

  constructor(tab, world, complain) {
    Object.assign(this, { tab, world, complain });
  }

  /** Whether the tab itself has the connection. */
  #isOwn() {
    const { page, isShared } = this.tab;
    return !isShared || this.world.broker.open().some((it) => it.page === page);
  }

  /** Whether the network could bring something to this tab. */
  #canArrive() {
    const { tab, world } = this;
    const isMine = ({ page }) => tab.isShared || page === tab.page;
    const isThere = ({ page }) => page.isOnline && !page.isFrozen && !page.isGone;
    const others = world.tabs.filter((other) => isMine(other) && isThere(other));
    // Between two polls there is no connection, and the next one brings what there is.
    if (tab.leftoff.connection.transport === "poll") {
      return others.some((other) => other.canPoll());
    }
    const open = world.broker.open().filter((it) => isMine(it) && isThere(it) && !it.isStalled);
    return open.some(({ kind }) => kind !== "poll");
  }

  /** The time in which a client notices that nothing can arrive. */
  #patience(state) {
    const { tab, world } = this;
    const takeoverMs = tab.page.visibilityState === "hidden" ? HIDDEN_TAKEOVER_MS : TAKEOVER_MS;
    const beatMs = state === "polling" ? POLL_MS : 1.5 * world.broker.heartbeatMs + 1_000;
    return beatMs + LATE_MS + LOOK_MS + (tab.isShared ? takeoverMs : 0);
  }

  look() {
    const { tab, world } = this;
    if (tab.page.isFrozen) {
      this.#deadSinceMs = this.#tryingSinceMs = undefined;
      this.#doubtedAtMs = undefined;
      this.#mustNoticeAtMs = Infinity;
      return;
    }
    const { passed } = world.clock;
    const { connection } = tab.leftoff;
    if (tab.watch.heardAtMs > this.#doubtedAtMs) {
      this.#mustNoticeAtMs = Infinity; // What was on its way has come, and is a sign of life.
    }
    if (isGood(connection) && !this.#canArrive()) {
      this.#deadSinceMs ??= passed;
      const silentMs = passed - this.#deadSinceMs;
      if (silentMs > this.#patience(connection.state) || passed > this.#mustNoticeAtMs) {
        this.complain(`${connection.state} for ${silentMs} ms while nothing can arrive`);
        this.#deadSinceMs = undefined;
      }
    } else {
      this.#deadSinceMs = undefined;
      this.#doubtedAtMs = undefined;
      this.#mustNoticeAtMs = Infinity;
    }
    tab.isShared || tab.isHidden || this.#lookAtTries(connection);
  }

  /** A try comes at its time, and comes to an end. */
  #lookAtTries({ state, nextTryAt }) {
    const { passed } = this.world.clock;
    if (TRYING.includes(state) && nextTryAt !== null && passed > this.#nextAtMs + 1_000) {
      this.complain(`${state}, and the next try is late by ${passed - this.#nextAtMs} ms`);
      this.#nextAtMs = passed;
    }
    this.#tryingSinceMs =
      TRYING.includes(state) && nextTryAt === null ? (this.#tryingSinceMs ?? passed) : undefined;
    // One transport after the other may be tried at once.
    if (passed - this.#tryingSinceMs > OPEN_MS * this.world.transports.length + LOOK_MS) {
      this.complain(`${state} for ${passed - this.#tryingSinceMs} ms, and no other try is planned`);
      this.#tryingSinceMs = passed;
    }
  }

  /** The page was told to look at its line. A dead one is noticed soon, if there is a doubt. */
  woken(isOtherNetwork) {
    const { tab, world } = this;
    const silentMs = Math.abs(world.clock.now - tab.watch.heardOnWallMs);
    const isDoubtful = isOtherNetwork || silentMs > 1.5 * world.broker.heartbeatMs + 1_000;
    const isLine = ["websocket", "sse"].includes(tab.leftoff.connection.transport);
    // Of two lines the client looks at one.
    const isOne = world.broker.open().filter(({ page }) => page === tab.page).length === 1;
    if (isLine && isOne && isDoubtful && !this.#canArrive()) {
      const soonest = world.clock.passed + DOUBT_MS + LATE_MS;
      this.#doubtedAtMs ??= world.clock.passed;
      this.#mustNoticeAtMs = Math.min(this.#mustNoticeAtMs, soonest);
    }
  }

  told(told) {
    const { tab, world, complain } = this;
    const { passed, now } = world.clock;
    const { state, reason, transport, nextTryAt } = told;
    this.#tryingSinceMs = undefined;
    if (transport !== this.#told.transport) {
      this.#mustNoticeAtMs = Infinity; // Another line, of which nothing was said.
    }
    this.#nextAtMs = nextTryAt === null ? undefined : passed + (nextTryAt - now);
    if (tab.leftoff.connection !== told || JSON.stringify(told) === JSON.stringify(this.#told)) {
      complain(`${state} was told though nothing has changed`);
    }
    if (isGood(told) !== (transport !== null) || (isGood(told) && (reason || nextTryAt !== null))) {
      complain(`${state} over ${transport}, with the reason "${reason}"`);
    }
    if (isGood(told) && (state === "polling") !== (transport === "poll")) {
      complain(`${state} over ${transport}`);
    }
    if (isGood(told) && !isGood(this.#told) && this.#isOwn() && tab.watch.heardAtMs !== passed) {
      complain(`${state}, though nothing has come since ${passed - tab.watch.heardAtMs} ms`);
    }
    tab.isShared || this.#toldAlone(told);
    this.#checkEnd(told);
    this.#wasGood ||= isGood(told);
    this.#told = told;
  }

  /** What is exact where no other tab has the connection. */
  #toldAlone({ state, nextTryAt }) {
    const { page } = this.tab;
    if (state === "connecting" && this.#wasGood) {
      this.complain("connecting, though it was connected before");
    }
    if (nextTryAt !== null && !(nextTryAt >= this.world.clock.now)) {
      this.complain(`the next try of ${state} is planned for the past`);
    }
    if (TRYING.includes(state) && (state === "offline") === page.isOnline) {
      this.complain(`${state}, though the page is ${page.isOnline ? "online" : "offline"}`);
    }
  }

  /** A state that ends everything has a cause. */
  #checkEnd({ state, reason }) {
    const { tab, world } = this;
    const { forbidden, ends, denials } = world.counts;
    // Without a token there is none to ask for, and the first refusal is the last.
    const refused = denials + world.broker.expired;
    if (state === "denied" && forbidden === 0 && refused < (world.hasToken ? 2 : 1)) {
      this.complain(`denied without a cause: ${reason}`);
    }
    if (state === "closed" && ends === 0 && !tab.isClosed) {
      this.complain(`closed without a cause: ${reason}`);
    }
  }
}
