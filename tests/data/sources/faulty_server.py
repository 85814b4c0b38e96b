"""A store of objects over HTTP that serves ranges, and can fail as stores do: a server of the standard library."""

import hashlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FAULTS = ("reset", "truncated", "500", "503", "longer", "shorter", "silent")


class Store(ThreadingHTTPServer):
    """url: where the files of `folder` are. fault: what happens to the n-th GET of a body, or None. requests: all.

    down: all is answered with 503. ranges: false of a server that knows none.

    "reset" ends the connection, "truncated" and "longer" send less than they promised, "shorter" promises less than it
    sends, "silent" says nothing until the store closes, "wrong range" sends other bytes, a number is a status.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.requests = folder, list[tuple[str, str, str]]()
        self.fault: Callable[[int], str | None] = lambda n: None
        self.gets, self.injected = 0, 0
        self.ranges, self.down, self.closing = True, False, threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that left is none."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Store

    def log_message(self, *args: object) -> None: ...

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        store, path = self.server, self.server.folder / self.path.lstrip("/").partition("?")[0]
        store.requests.append((self.command, self.path, self.headers.get("Range", "")))
        if self.server.down:
            return self._empty(503)
        if not path.is_file():
            return self._empty(404)
        if "secret" in path.name:
            return self._empty(403)
        content = path.read_bytes()
        etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        if self.headers.get("If-Match", etag) != etag:
            return self._empty(412)
        begin, end = 0, len(content)
        if (asked := self.headers.get("Range")) and store.ranges:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            begin, end = int(first), min(end, int(last) + 1)
            if begin >= len(content):
                return self._empty(416)
        fault = None
        if body:
            fault = store.fault(store.gets)
            store.gets += 1
            store.injected += fault is not None
        if fault == "silent":
            store.closing.wait(30)
        if fault in ("reset", "silent"):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
            return None
        if fault is not None and fault.isdigit():
            return self._empty(int(fault))
        part = content[begin:end]
        if fault == "wrong range":
            part = content[begin + 512 : end + 512].ljust(len(part), b"\0")
        sends = part[: len(part) // 2] if fault in ("truncated", "longer") else part
        promised = {"longer": len(part) + 7, "shorter": max(1, len(part) // 2)}.get(fault or "", len(part))
        self.send_response(206 if asked and store.ranges else 200)
        self.send_header("Content-Length", str(promised))
        self.send_header("ETag", etag)
        self.end_headers()
        if body:
            self.wfile.write(sends)
        if fault is not None:
            self.close_connection = True
        return None

    def _empty(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextmanager
def serving(folder: Path) -> Iterator[Store]:
    store = Store(folder)
    thread = threading.Thread(target=store.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield store
    finally:
        store.closing.set()
        store.shutdown()
        store.server_close()
        thread.join(5.0)


def every(count: int, faults: tuple[str, ...] = FAULTS) -> Callable[[int], str | None]:
    """One in `count` requests fails, in one way after the other."""
    return lambda n: faults[n // count % len(faults)] if n % count == 0 else None
