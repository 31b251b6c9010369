"""Publishes and reads CloudEvents with their SDK from PyPI, `cloudevents`:

    cloud_events.py publish URL REPORTS    publishes the reports in a file, and prints each that is
                                           acknowledged
    cloud_events.py read URL               follows an event stream of CloudEvents
"""

import json
import sys
import time

import requests
import sseclient
from cloudevents.core.bindings import http
from cloudevents.core.v1.event import CloudEvent
from tell import PAUSE, again_and_again, tell

SOURCE = "/python"

LOST = (requests.ConnectionError, requests.exceptions.ChunkedEncodingError)

task, url, *rest = sys.argv[1:]
cursor = None


def tell_event(sequence, event):
    named = {"id": event.get_id(), "source": event.get_source(), "subject": event.get_subject()}
    data = json.dumps({**named, "data": event.get_data()})
    tell("event", sequence, event.get_type(), data)


def send(message):
    """Sends a message of the SDK until it is acknowledged. Returns the sequence of its event."""
    while True:
        try:
            answer = requests.post(url, data=message.body, headers=message.headers, timeout=30)
            if answer.ok:
                return str(answer.json()["sequence"])
            assert answer.status_code >= 500, answer.text
        except LOST:
            pass
        time.sleep(PAUSE)


def publish():
    with open(rest[0], encoding="utf-8") as reports:
        for index, line in enumerate(reports):
            report = json.loads(line)
            attributes = {
                "id": str(index),
                "source": SOURCE,
                "type": report["type"],
                "subject": report["key"],
                "datacontenttype": "application/json",
            }
            event = CloudEvent(attributes, report["data"])
            is_even = index % 2 == 0
            message = (http.to_binary_event if is_even else http.to_structured_event)(event)
            tell_event(send(message), event)
    sys.stdin.read()


def read():
    global cursor
    headers = {"Accept": "text/event-stream"}
    if cursor:
        headers["Last-Event-ID"] = cursor
    with requests.get(url, stream=True, headers=headers, timeout=30) as response:
        response.raise_for_status()
        for block in sseclient.SSEClient(response).events():
            cursor = block.id or cursor
            if block.event == "message":
                head = {"content-type": "application/cloudevents+json"}
                message = http.HTTPMessage(headers=head, body=block.data.encode())
                tell_event(block.id, http.from_structured_event(message))


if task == "publish":
    publish()
else:
    again_and_again(read, LOST)
