"""Follows a topic over a WebSocket with `websockets` from PyPI: web_socket.py URL TOPIC."""

import json
import sys

from tell import again_and_again, tell
from websockets.exceptions import ConnectionClosed, InvalidMessage, InvalidStatus
from websockets.sync.client import connect

url, topic = sys.argv[1:]
cursor = "earliest"


def follow():
    try:
        read()
    except InvalidStatus as refused:
        # A proxy answers with these statuses while the broker is away.
        if refused.response.status_code not in (502, 503, 504):
            raise
        raise ConnectionError from refused


def read():
    with connect(url, subprotocols=["leftoff.v1.json"], open_timeout=30) as socket:
        subscribe = {"type": "subscribe", "subscription": "s", "topic": topic, "from": cursor}
        socket.send(json.dumps(subscribe))
        # An orderly end ends this loop, and any other end raises `ConnectionClosed`.
        for text in socket:
            take(text)


def take(text):
    global cursor
    message = json.loads(text)
    cursor = message.get("cursor", cursor)
    kind = message["type"]
    if kind == "event":
        event = message["event"]
        tell("event", cursor, event["type"], json.dumps(event["data"]))
    elif kind == "gap":
        tell("gap", cursor, "", json.dumps(message["gap"]))
    elif kind not in ("subscribed", "caught_up", "cursor"):
        tell("wrong", "", kind, text)


# A handshake that was cut off is a lost connection; a refused handshake is not.
again_and_again(follow, (ConnectionClosed, InvalidMessage, OSError, EOFError))
