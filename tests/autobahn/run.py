"""Runs the cases of Autobahn's WebSocket test suite against an endpoint that echoes messages.

    run.py CASES HOST PORT PATH

CASES is the folder `autobahntestsuite/case` of the package `autobahntestsuite`. The suite itself
needs Python 2 and old libraries. Its cases are plain descriptions: the frames that a client sends,
the messages that must come back, and the way in which the connection must end. This program loads
the cases unchanged, with a client in place of the suite's own: it blocks, uses one socket, and has
the methods that the cases call. Texts are bytes in Python 2; here, each is a text of the characters
0 to 255.

Prints one line for each case that does not pass, and then the number of passes. Exits with 1 if a
case failed. Sections 12 and 13 are left out, because they test compression, which is not offered.
"""

import base64
import binascii
import os
import re
import select
import socket
import struct
import sys
import time
import types

PATIENCE = 60

# The number of cases in version 25.10.1 of the suite, without those that are left out.
CASES = 301

# The cases of compression, and one that sends without an end, which the suite does not run either.
LEFT_OUT = ("case12", "case9_9")


class Utf8Validator:
    """The part of Autobahn's validator that cases use: whether a text is valid so far, and whole."""

    def reset(self):
        pass

    def validate(self, text):
        data = text.encode("latin-1")
        try:
            data.decode("utf-8")
            return (True, True, len(data), len(data))
        except UnicodeDecodeError as error:
            is_cut = error.reason == "unexpected end of data"
            return (is_cut, False, error.start, error.start)


class WebSocketProtocol:
    """The client through which a case speaks."""

    STATE_CONNECTING, STATE_OPEN, STATE_CLOSING, STATE_CLOSED = range(4)
    CLOSE_STATUS_CODE_NORMAL = 1000
    CLOSE_STATUS_CODE_PROTOCOL_ERROR = 1002
    CLOSE_STATUS_CODE_INVALID_PAYLOAD = 1007

    def __init__(self, host, port, path):
        self.factory = types.SimpleNamespace(isServer=False)
        self.state = self.STATE_CONNECTING
        self.connectionWasOpen = self.closedByMe = self.wasClean = self.droppedByMe = False
        self.remoteCloseCode = self.localCloseReason = None
        self.createWirelog = False
        self.autoFragmentSize = 0
        self.txFrameStats = {}
        self.timers = []
        self.message = []
        self.message_opcode = None
        self.data = b""
        self.socket = socket.create_connection((host, port), timeout=PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        key = base64.b64encode(os.urandom(16)).decode()
        self.write(
            f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: Upgrade\r\n"
            f"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
            .encode()
        )
        while b"\r\n\r\n" not in self.data:
            data = self.socket.recv(65536)
            assert data, "the handshake was not answered"
            self.data += data
        head, self.data = self.data.split(b"\r\n\r\n", 1)
        assert head.startswith(b"HTTP/1.1 101 "), head
        self.state = self.STATE_OPEN
        self.connectionWasOpen = True

    # The methods that cases call.

    def enableWirelog(self, _is_on):
        pass

    def killAfter(self, seconds):
        self.later(seconds, self.drop)

    def closeAfter(self, seconds):
        self.later(seconds, self.sendClose)

    def continueLater(self, seconds, act, _tag=None):
        self.later(seconds, act)

    def sendFrame(self, opcode, payload="", fin=True, rsv=0, mask=None, payload_len=None,
                  chopsize=None, sync=False):
        data = payload.encode("latin-1")
        if payload_len is not None:
            data = (data * (payload_len // max(1, len(data)) + 1))[:payload_len]
        self.txFrameStats[opcode] = self.txFrameStats.get(opcode, 0) + 1
        bytes_out = frame_head(opcode, fin, rsv, len(data)) + masked(data)
        step = chopsize or len(bytes_out)
        for start in range(0, len(bytes_out), step):
            self.write(bytes_out[start:start + step])

    def sendMessage(self, payload, isBinary=False, fragmentSize=None):
        size = fragmentSize or self.autoFragmentSize or max(1, len(payload))
        parts = [payload[at:at + size] for at in range(0, len(payload), size)] or [""]
        for index, part in enumerate(parts):
            opcode = (2 if isBinary else 1) if index == 0 else 0
            self.sendFrame(opcode, part, fin=index + 1 == len(parts))

    def beginMessage(self, isBinary=False):
        self.message_kind = 2 if isBinary else 1

    def beginMessageFrame(self, length):
        self.write(frame_head(self.message_kind, True, 0, length, mask=bytes(4)))

    def sendMessageFrameData(self, payload, sync=False):
        self.write(payload.encode("latin-1"))

    def endMessage(self):
        pass

    def sendClose(self, code=None, reason=None):
        if self.state == self.STATE_OPEN:
            self.sendCloseFrame(code, reason)

    def sendCloseFrame(self, code=None, reasonUtf8=None, isReply=False):
        payload = b"" if code is None else struct.pack("!H", code)
        payload += (reasonUtf8 or "").encode("latin-1")
        self.sendFrame(8, payload.decode("latin-1"))
        if not isReply:
            self.closedByMe = True
        self.localCloseReason = reasonUtf8
        self.state = self.STATE_CLOSING

    # The methods below them.

    def later(self, seconds, act):
        self.timers.append((time.monotonic() + seconds, act))

    def drop(self):
        self.droppedByMe = self.state != self.STATE_CLOSED
        self.state = self.STATE_CLOSED

    def write(self, data):
        try:
            self.socket.sendall(data)
        except OSError:
            pass  # The other end has closed; its last frames can still be read.

    def run(self, case):
        case.onOpen()
        ends = time.monotonic() + 4 * PATIENCE
        while self.state != self.STATE_CLOSED:
            while self.state != self.STATE_CLOSED and self.take_frame(case):
                pass
            now = time.monotonic()
            assert now < ends, "the case does not end"
            due = [timer for timer in self.timers if timer[0] <= now]
            self.timers = [timer for timer in self.timers if timer[0] > now]
            for _, act in due:
                act()
            if due or self.state == self.STATE_CLOSED:
                continue
            next_timer = min([timer[0] for timer in self.timers], default=ends)
            ready, _, _ = select.select([self.socket], [], [], max(0, next_timer - now))
            if not ready:
                continue
            try:
                data = self.socket.recv(1 << 20)
            except OSError:
                data = b""
            if data:
                self.data += data
            else:
                self.state = self.STATE_CLOSED
        self.socket.close()
        case.onConnectionLost(False)

    def take_frame(self, case):
        """Takes one whole frame, and hands it to the case. Returns False if there is none."""
        data = self.data
        if len(data) < 2:
            return False
        assert not data[0] & 0x70 and not data[1] & 0x80, f"a wrong frame: {data[:2].hex()}"
        fin, opcode, length, at = data[0] & 0x80, data[0] & 15, data[1], 2
        if length >= 126:
            size = 2 if length == 126 else 8
            if len(data) < 2 + size:
                return False
            length, at = int.from_bytes(data[2:2 + size], "big"), 2 + size
        if len(data) < at + length:
            return False
        payload, self.data = data[at:at + length], data[at + length:]
        if opcode in (0, 1, 2):
            assert (opcode == 0) == (self.message_opcode is not None), "a wrong fragment"
            self.message_opcode = self.message_opcode or opcode
            self.message.append(payload)
            if fin:
                whole, kind = b"".join(self.message), self.message_opcode
                self.message, self.message_opcode = [], None
                if kind == 1:
                    whole.decode("utf-8")
                if self.state == self.STATE_OPEN:
                    case.onMessage(whole.decode("latin-1"), kind == 2)
        elif opcode == 9:
            case.onPing(payload.decode("latin-1"))
        elif opcode == 10:
            if self.state == self.STATE_OPEN:
                case.onPong(payload.decode("latin-1"))
        elif opcode == 8:
            self.remoteCloseCode = int.from_bytes(payload[:2], "big") if payload else None
            payload[2:].decode("utf-8")
            self.wasClean = True
            if self.state == self.STATE_OPEN:
                self.sendCloseFrame(self.remoteCloseCode, isReply=True)
            case.onClose(True, self.remoteCloseCode, payload[2:].decode("latin-1"))
        else:
            raise AssertionError(f"opcode {opcode}")
        return True


def frame_head(opcode, fin, rsv, length, mask=None):
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    if length < 126:
        head = struct.pack("!BB", first, 0x80 | length)
    elif length < 1 << 16:
        head = struct.pack("!BBH", first, 0x80 | 126, length)
    else:
        head = struct.pack("!BBQ", first, 0x80 | 127, length)
    return head + (mask or MASK)


MASK = b"\x11\x22\x33\x44"


def masked(data):
    mask = (MASK * (len(data) // 4 + 1))[:len(data)]
    size = len(data)
    mixed = int.from_bytes(data, "big") ^ int.from_bytes(mask, "big")
    return mixed.to_bytes(size, "big")


class Loader:
    """Loads the modules of the cases, which are written for Python 2, with their imports."""

    def __init__(self, folder):
        self.folder = folder
        self.modules = {
            "binascii": types.SimpleNamespace(b2a_hex=lambda t: t.encode("latin-1").hex()),
            "autobahn.websocket.protocol": types.SimpleNamespace(
                WebSocketProtocol=WebSocketProtocol
            ),
            "autobahn.websocket.utf8validator": types.SimpleNamespace(Utf8Validator=Utf8Validator),
        }

    def load(self, name):
        if name not in self.modules:
            path = os.path.join(self.folder, name + ".py")
            with open(path, encoding="latin-1") as file:
                source = file.read()
            source = source.replace("(object, Case, )", "(Case,)")
            source = re.sub(r"\) / ", ") // ", source)
            source = re.sub(r"(?m)^(\s*)print\b.*$", r"\1pass", source)
            module = {"__name__": name, "xrange": range, "unichr": chr}
            module["__builtins__"] = dict(vars(__import__("builtins")), __import__=self.imported)
            exec(compile(source, path, "exec"), module)
            self.modules[name] = types.SimpleNamespace(**module)
        return self.modules[name]

    def imported(self, name, scope=None, locals_=None, names=(), level=0):
        is_case = os.path.exists(os.path.join(self.folder, name + ".py"))
        if name in self.modules or is_case:
            return self.load(name)
        return __import__(name, scope, locals_, names, level)


def cases(folder):
    """Returns all cases except those of compression: their numbers and their classes."""
    loader = Loader(folder)
    base = loader.load("case").Case
    base.compare = lambda self, one, other: one == other
    found = {}
    for name in sorted(os.listdir(folder)):
        if not re.fullmatch(r"case\d.*\.py", name) or name.startswith(LEFT_OUT):
            continue
        values = vars(loader.load(name[:-3])).values()
        lists = [value for value in values if isinstance(value, list)]
        for value in [*values, *(one for some in lists for one in some)]:
            if isinstance(value, type) and issubclass(value, base) and value is not base:
                found[tuple(int(part) for part in value.__name__[4:].split("_"))] = value
    return sorted(found.items())


def main():
    folder, host, port, path = sys.argv[1:]
    passed, failed, notes = 0, 0, 0
    started = time.monotonic()
    for number, kind in cases(folder):
        name = ".".join(map(str, number))
        try:
            protocol = WebSocketProtocol(host, int(port), path)
            case = kind(protocol)
            protocol.run(case)
            outcome, close = case.behavior, case.behaviorClose
            result = f"{case.result} {case.resultClose}."
        except (AssertionError, OSError, UnicodeDecodeError) as error:
            outcome, close, result = "FAILED", "none", str(error)
        is_passed = outcome in ("OK", "NON-STRICT", "INFORMATIONAL")
        is_passed = is_passed and close in ("OK", "INFORMATIONAL")
        if (outcome, close) != ("OK", "OK"):
            print(f"case {name}: {outcome}, close {close}: {result}")
            notes += is_passed
        passed, failed = passed + is_passed, failed + (not is_passed)
    seconds = time.monotonic() - started
    print(f"{passed} passed, of which {notes} are less than strict; {failed} failed; {seconds:.0f} s")
    sys.exit(1 if failed or passed < CASES else 0)


if __name__ == "__main__":
    main()
