"""Receives webhooks, and checks their signatures with the library of the specification from PyPI,
`standardwebhooks`:

    webhooks.py PORT SECRET    prints each event whose signature is right
"""

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from standardwebhooks import Webhook, WebhookVerificationError
from tell import end_with_input, tell

port, secret = sys.argv[1:]
webhook = Webhook(secret)


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        try:
            event = webhook.verify(body, dict(self.headers))
        except WebhookVerificationError as error:
            tell("wrong", self.headers["webhook-id"] or "", "", repr(error))
            self.send_response(400)
        else:
            tell("event", str(event["sequence"]), event["type"], json.dumps(event["data"]))
            self.send_response(204)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


threading.Thread(target=end_with_input, daemon=True).start()
ThreadingHTTPServer(("127.0.0.1", int(port)), Receiver).serve_forever()
