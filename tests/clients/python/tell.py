"""What a client was told goes to standard output, a line of JSON each: [kind, cursor, type, data].

Kinds are `event`, `gap`, and `wrong`, whose data is what is wrong. The process ends with its
standard input, so that none outlives its test.
"""

import json
import os
import sys
import threading
import time

# Between two attempts to connect, in seconds.
PAUSE = 0.1


def tell(kind, cursor, event_type, data):
    # One write for a line, for more than one thread may tell.
    sys.stdout.write(json.dumps([kind, cursor, event_type, data]) + "\n")
    sys.stdout.flush()


def tell_block(event_type, cursor, data):
    """A block of an event stream, all of whose data is JSON, whatever it is about."""
    try:
        json.loads(data)
    except ValueError as error:
        tell("wrong", cursor, event_type, f"{error}: {data!r}")
        return
    if event_type == "leftoff.gap":
        tell("gap", cursor, event_type, data)
    elif event_type == "leftoff.error":
        tell("wrong", cursor, event_type, data)
    elif not event_type.startswith("leftoff."):
        tell("event", cursor, event_type, data)


def again_and_again(follow, is_lost):
    """Follows until standard input ends. An error of the kinds `is_lost` is a lost connection."""
    threading.Thread(target=end_with_input, daemon=True).start()
    while True:
        try:
            follow()
        except is_lost:
            pass
        except BaseException as error:
            tell("wrong", "", "", repr(error))
            raise
        time.sleep(PAUSE)


def end_with_input():
    sys.stdin.read()
    os._exit(0)
