// Hooks for React. See README.md.

import type { Change, Counts, Entry, InboxOptions, Mark, View } from "./inbox.js";
import type {
  ConnectionState, ConnectOptions, Gap, Handlers, Problem, StoredEvent, SubscribeOptions,
} from "./leftoff.js";
import type { Member, PresenceOptions } from "./presence.js";

export interface Hooks {
  /** Follows topics while the component is mounted. Null follows none. */
  useSubscription(topics: string | string[] | null, options?: SubscribeOptions, handlers?: Handlers): void;
  /** Returns the newest events of topics, the oldest first: at most `limit`, 100 if it is missing. */
  useEvents(
    topics: string | string[] | null,
    options?: SubscribeOptions & { limit?: number },
  ): { events: StoredEvent[]; gaps: Gap[]; isCaughtUp: boolean };
  /** Returns the state of the connection. */
  useConnectionState(): ConnectionState;
  /** Returns an inbox. `refused` is told why a change was taken back. */
  useInbox(options: InboxOptions & { refused?: (problem: Problem) => void }): {
    entries: Entry[];
    counts: Counts | null;
    view: View;
    hasMore: boolean;
    isOld: boolean;
    show(view: View): Promise<void> | undefined;
    more(): Promise<void> | undefined;
    mark(entries: Entry | Entry[], change: Change): Promise<void> | undefined;
    markAll(mark: Exclude<Mark, "snoozed">): Promise<void> | undefined;
  };
  /** Returns the members of a topic. With `member`, the page's user is one of them. */
  usePresence(topic: string, options?: PresenceOptions): Member[];
}

/**
 * Returns the hooks for one broker. Call it once, outside of components: all hooks that it returns
 * share one connection, which is open while one of them is mounted.
 */
export function hooks(React: object, options?: ConnectOptions): Hooks;
