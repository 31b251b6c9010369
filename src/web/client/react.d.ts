// Hooks for React. See README.md.

import type { Change, Counts, Entry, InboxOptions, Mark, View } from "./inbox.js";
import type {
  ConnectionState, ConnectOptions, Gap, Handlers, Leftoff, Problem, StoredEvent, SubscribeOptions,
} from "./leftoff.js";
import type { Member, PresenceOptions } from "./presence.js";

export interface Hooks {
  /**
   * Follows topics while the component is mounted. Null follows none. Without a handler `ended`, what
   * the broker refuses is reported as an error of the page.
   */
  useSubscription<Data = unknown>(
    topics: string | string[] | null,
    options?: SubscribeOptions,
    handlers?: Handlers<Data>,
  ): void;
  /**
   * Returns the newest events of topics, the oldest first: at most `limit`, at least 1, 100 if it is
   * missing. With other topics or options the list begins anew.
   */
  useEvents<Data = unknown>(
    topics: string | string[] | null,
    options?: SubscribeOptions & { limit?: number },
  ): {
    events: StoredEvent<Data>[];
    gaps: Gap[];
    isCaughtUp: boolean;
    /** Why the broker has ended it for good; null otherwise. */
    problem: Problem | null;
  };
  /** Returns the state of the connection: `connecting` before there is one, and on a server. */
  useConnectionState(): ConnectionState;
  /**
   * Returns an inbox; of null, an empty one. `refused` is told why a change was taken back. An entry
   * is the same object until its marks change, and the functions are the same with the same options.
   */
  useInbox(options: (InboxOptions & { refused?: (problem: Problem) => void }) | null): {
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
  /** Returns the members of a topic; of null, none. With `member`, the page's user is one of them. */
  usePresence(topic: string | null, options?: PresenceOptions): Member[];
}

/**
 * Returns the hooks for one broker. Call it once, outside of components: all hooks that it returns
 * share one connection, which is open while one of them is mounted. In the place of options a client
 * of the page's own may be given, with which the page publishes, for example: the page closes it.
 */
export function hooks(React: object, options?: ConnectOptions | Leftoff): Hooks;
