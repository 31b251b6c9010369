"""Follows an event stream with a client from PyPI: event_stream.py CLIENT URL.

Neither client reconnects by itself: each reports its last id, and its caller must request the
events after that.
"""

import sys

from tell import again_and_again, tell_block

client, url = sys.argv[1:]
cursor = None


def headers():
    accept = {"Accept": "text/event-stream"}
    return accept if cursor is None else {**accept, "Last-Event-ID": cursor}


def take(event_type, id, data):
    global cursor
    if id:
        cursor = id
    tell_block(event_type, id, data)


def follow_with_httpx():
    with httpx.Client(timeout=30) as http:
        with httpx_sse.connect_sse(http, "GET", url, headers=headers()) as stream:
            stream.response.raise_for_status()
            try:
                for event in stream.iter_sse():
                    take(event.event, event.id, event.data)
            except httpx_sse.SSEError as error:  # The answer is not a stream.
                raise ValueError(str(error)) from error


def follow_with_sseclient():
    with requests.get(url, stream=True, headers=headers(), timeout=30) as response:
        response.raise_for_status()
        for event in sseclient.SSEClient(response).events():
            take(event.event, event.id, event.data)


# A status other than success is not a lost connection, and ends in `wrong`.
if client == "httpx-sse":
    import httpx
    import httpx_sse

    lost = (httpx.TransportError,)
    again_and_again(follow_with_httpx, lost)
elif client == "sseclient-py":
    import requests
    import sseclient

    lost = (requests.ConnectionError, requests.exceptions.ChunkedEncodingError)
    again_and_again(follow_with_sseclient, lost)
