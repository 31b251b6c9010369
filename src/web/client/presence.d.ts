// Who is present in a topic. See README.md.

import type { Leftoff, Problem } from "./leftoff.js";

export interface Member {
  id: string;
  /** What the member tells of itself: an object, whose JSON has at most 1 KiB. */
  info?: object;
}

export interface PresenceOptions {
  /** The member that the page's user is. Without it the page looks on and is not seen. */
  member?: { id?: string; info?: object };
}

/** The events of a presence by their types. */
export interface PresenceEvents {
  /** A member came or left, or the list is old, or is not any more. */
  change: Event;
  /** The broker refuses the list: `detail` says why. */
  refused: CustomEvent<Problem>;
}

/** The members of a topic. */
export class Presence extends EventTarget {
  constructor(leftoff: Leftoff, topic: string, options?: PresenceOptions);
  addEventListener<Type extends keyof PresenceEvents>(
    type: Type,
    listener: (event: PresenceEvents[Type]) => unknown,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
  removeEventListener<Type extends keyof PresenceEvents>(
    type: Type,
    listener: (event: PresenceEvents[Type]) => unknown,
    options?: boolean | EventListenerOptions,
  ): void;
  removeEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | EventListenerOptions,
  ): void;
  /** The members in the order of their ids. */
  readonly members: Member[];
  /** Whether the list may be behind what the broker has: nobody tells while there is no connection. */
  readonly isOld: boolean;
  /** Ends the presence: the own member leaves. */
  close(): void;
}

/** Follows the presence of a topic. */
export function presence(leftoff: Leftoff, topic: string, options?: PresenceOptions): Presence;
