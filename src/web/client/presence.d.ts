// Who is present in a topic. See README.md.

import type { Leftoff } from "./leftoff.js";

export interface Member {
  id: string;
  /** What the member tells of itself: an object, whose JSON has at most 1 KiB. */
  info?: object;
}

export interface PresenceOptions {
  /** The member that the page's user is. Without it the page looks on and is not seen. */
  member?: { id?: string; info?: object };
}

/** The members of a topic. Events: "change"; "refused", whose `detail` is a Problem. */
export class Presence extends EventTarget {
  constructor(leftoff: Leftoff, topic: string, options?: PresenceOptions);
  /** The members in the order of their ids. */
  readonly members: Member[];
  /** Whether the list may be behind what the broker has: nobody tells while there is no connection. */
  readonly isOld: boolean;
  /** Ends the presence: the own member leaves. */
  close(): void;
}

/** Follows the presence of a topic. */
export function presence(leftoff: Leftoff, topic: string, options?: PresenceOptions): Presence;
