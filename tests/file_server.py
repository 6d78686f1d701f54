"""An HTTP server on the loopback interface that has all the faults a download can meet."""

import contextlib
import gzip
import hashlib
import http.server
import socket
import struct
import threading
import time


class Faults:
    """What a `FileServer` does to one path; each number or list counts requests (GET) to it.

    Attributes
    ----------
    cut_after : list of int
        For the first requests: bytes after which the connection is broken off.
    reset : bool
        Break off with a TCP reset instead of an end of the stream.
    stall_after : list of int
        For the first requests: bytes after which nothing comes any more.
    ranges : bool
        Honour ``Range``; else answer with the whole file and 200.
    etag, linked : str or None
        ``ETag``; ``X-Linked-Etag`` (and the size) of HEAD, as the hub sends it.
    length : int
        ``Content-Length`` that is claimed, instead of the right one.
    statuses : list of (int, dict)
        For the first requests: a status and headers to answer with, instead of the file.
    redirect : str
        Answer with 302 to this address.
    encoding : "gzip"
    content_type : str
    head : int
        Status of HEAD, where it is another one.
    pace : float
        Seconds before each piece of 16 KB.
    gate : threading.Event or None
        What the body waits for.
    """

    def __init__(self, data, **faults):
        self.data = data
        self.cut_after, self.stall_after, self.statuses = [], [], []
        self.reset, self.ranges, self.etag, self.linked = False, True, None, None
        self.length = self.redirect = self.encoding = self.head = None
        self.content_type, self.pace = "application/octet-stream", 0.0
        self.then = None  # called after each GET
        self.gate = None
        for name, value in faults.items():
            assert hasattr(self, name), name
            setattr(self, name, value)


class FileServer:
    """A server in a thread. ``files`` maps paths to `Faults`; ``requests`` are (method, path, headers).

    Use it in a ``with`` statement; it is bound to a free port of 127.0.0.1.
    """

    def __init__(self, files=None):
        self.files = files or {}
        self.requests = []
        self.closing = threading.Event()
        server = self

        class Handler(_Handler):
            owner = server

        self._httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._httpd.daemon_threads = True
        self.port = self._httpd.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._httpd.serve_forever, args=(0.02,), daemon=True)

    def gets(self, path=None):
        return [
            headers for method, asked, headers in self.requests if method == "GET" and path in (None, asked)
        ]

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc_info):
        self.closing.set()
        self._httpd.shutdown()
        self._httpd.server_close()
        self._thread.join(5)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self.answer(with_body=False)

    def do_GET(self):
        self.answer(with_body=True)

    def answer(self, with_body):
        self.owner.requests.append((self.command, self.path, dict(self.headers.items())))
        self.close_connection = True
        faults = self.owner.files.get(self.path)
        with contextlib.suppress(OSError):
            if faults is None:
                self.reply(404, {"Content-Length": "0", "X-Error-Code": "EntryNotFound"})
            else:
                self.answer_with(faults, with_body)
        if faults is not None and faults.then and with_body:
            faults.then(faults)

    def reply(self, status, headers):
        self.send_response(status)
        for name, value in {"Connection": "close", **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()

    def answer_with(self, faults, with_body):
        if not with_body and faults.head:
            return self.reply(faults.head, {"Content-Length": "0"})
        if with_body and faults.statuses:
            status, headers = faults.statuses.pop(0)
            return self.reply(status, {"Content-Length": "0", **headers})
        data = faults.data
        described = {}
        if faults.linked:
            described = {"X-Linked-Etag": f'"{faults.linked}"', "X-Linked-Size": len(data)}
        if faults.redirect:
            return self.reply(302, {"Location": faults.redirect, "Content-Length": "0", **described})
        status, begin = 200, 0
        headers = {"Content-Type": faults.content_type}
        if faults.etag:
            headers["ETag"] = faults.etag
        asked = self.headers.get("Range")
        condition = self.headers.get("If-Range")
        if asked and faults.ranges and with_body and (condition is None or condition == faults.etag):
            begin = int(asked.removeprefix("bytes=").removesuffix("-"))
            if begin >= len(data):
                return self.reply(416, {"Content-Range": f"bytes */{len(data)}", "Content-Length": "0"})
            status = 206
            headers["Content-Range"] = f"bytes {begin}-{len(data) - 1}/{len(data)}"
        body = data[begin:]
        if faults.encoding:
            body = gzip.compress(body)
            headers["Content-Encoding"] = faults.encoding
        headers["Content-Length"] = len(body) if faults.length is None else faults.length
        self.reply(status, {**headers, **described})
        if with_body:
            self.send_body(faults, body)

    def send_body(self, faults, body):
        cut = faults.cut_after.pop(0) if faults.cut_after else None
        stall = faults.stall_after.pop(0) if faults.stall_after else None
        if faults.gate:
            faults.gate.wait(30)
        end = min(n for n in (cut, stall, len(body)) if n is not None)
        for at in range(0, end, 1 << 14):
            if faults.pace:
                time.sleep(faults.pace)
            self.wfile.write(body[at : min(at + (1 << 14), end)])
        self.wfile.flush()
        if stall is not None:
            self.owner.closing.wait(10)
        elif cut is not None and faults.reset:
            time.sleep(0.05)  # a reset overtakes what is still on its way
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.close()


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def unused_port():
    """A port of 127.0.0.1 that nobody listens to."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
