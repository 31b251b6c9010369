// Times and bounds, but for those of the transports.

/** The time for the first message: some proxies open lines that carry nothing. */
export const OPEN_MS = 10_000;
/** The time for a sign of life when a line is in doubt. */
export const DOUBT_MS = 3_000;
/** A line that lasted so long is good. */
export const GOOD_MS = 10_000;
export const PROBE_MS = 60_000;
/** The time for which two lines bring messages. */
export const OVERLAP_MS = 1_000;
/** A transport that failed so often in a row is left. */
export const STRIKES = 3;
/** Subscriptions that change within this time change the stream once. */
export const CHANGE_MS = 10;

/** What may wait for handlers. Beyond it the broker keeps the rest until it is asked again. */
export const MAX_WAITING = 1_000;
export const MAX_WAITING_SIZE = 1_048_576;

/** The most publishes to one topic that go out as one message. */
export const MAX_BATCH = 100;

export const ASK_MS = 400;
export const JOIN_AGAIN_MS = 5_000;
/** A leader that leaves so many questions unanswered is frozen, and loses its place. */
export const MOST_UNANSWERED = 3;
