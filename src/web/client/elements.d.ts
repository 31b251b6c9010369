// Custom elements. See README.md.

import type { Inbox } from "./inbox.js";
import type { Leftoff, StoredEvent } from "./leftoff.js";
import type { Member } from "./presence.js";

/** Registers `<leftoff-status>`, `<leftoff-inbox>` and `<leftoff-presence>` for a client. */
export function define(leftoff: Leftoff): void;

/** Says in words how the connection is. Attributes of the states' names have other words. */
export class StatusElement extends HTMLElement {
  leftoff: Leftoff;
}

/** A bell with a badge, and the list behind it. Attributes: topic, consumer, page-size, label. */
export class InboxElement extends HTMLElement {
  leftoff: Leftoff;
  readonly inbox: Inbox | undefined;
  /** Returns the title of an event. At most 300 characters of it are shown. */
  titleOf: (event: StoredEvent) => string;
  /**
   * Returns the address that the title leads to, if there is one. Without another function it is
   * `data.url`, if that begins with http:// or https://, or is a path of the page's own site.
   */
  linkOf: (event: StoredEvent) => string | undefined;
  /** Words that take the place of the English ones, set before the element is in the page. */
  words: Partial<InboxWords>;
  /** Opens or closes the list. */
  toggle(): void;
}

/** The words of an inbox: of its buttons, and of what it says. */
export type InboxWords = Record<
  | "inbox" | "unread" | "snoozed" | "archived" | "views" | "markAll" | "empty" | "more"
  | "arrived" | "refused" | "isNew" | "isUnread"
  | "read" | "unreadAgain" | "archive" | "unarchive" | "snooze" | "wake",
  string
>;

/** The members who are present. Attributes: topic, member, info, label. */
export class PresenceElement extends HTMLElement {
  leftoff: Leftoff;
  /** Returns the text for a member. */
  nameOf: (member: Member) => string;
}
