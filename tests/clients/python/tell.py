"""Prints the messages of a client to standard output, each as a line of JSON.

Each line is [kind, cursor, type, data]. The kind is `event`, `gap` or `wrong`, whose data is the
problem. The process ends with its standard input, so that it does not outlive its test.
"""

import json
import os
import sys
import threading
import time

# The pause between two attempts to connect, in seconds.
PAUSE = 0.1


def tell(kind, cursor, event_type, data):
    # A line is one write, because several threads may print.
    sys.stdout.write(json.dumps([kind, cursor, event_type, data]) + "\n")
    sys.stdout.flush()


def tell_block(event_type, cursor, data):
    """Prints a block of an event stream. All data must be JSON, whatever its type."""
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
