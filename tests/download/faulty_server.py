"""A local HTTP server that fails on request: cuts, stalls, refusals, whole files, wrong bytes."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.loopback import has_loopback


class FaultyServer:
    """Serves byte strings; the next requests for longer bodies meet `faults`, one each.

    Attributes
    ----------
    files : name -> content
    faults : of ('cut', n), ('stall', n), ('status', code, headers), ('corrupt',), taken in order by
        requests for more than `spare` bytes, so that those for sizes and tar headers pass
    ranges : False answers 200 with the whole file
    requests : (name, Range header, User-Agent) of all requests so far
    sent : bytes of bodies sent so far
    """

    def __init__(self, files: dict[str, bytes]):
        self.files, self.faults, self.ranges, self.spare = files, [], True, 5000
        self.requests: list[tuple[str, str, str]] = []
        self.sent = 0
        self.over = threading.Event()
        self.url = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        name, asked = handler.path.lstrip("/"), handler.headers.get("Range", "")
        self.requests.append((name, asked, handler.headers["User-Agent"]))
        content = self.files.get(name)
        if content is None:
            return handler.send_error(404)
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", asked)
        start = int(match[1]) if self.ranges and match else 0
        stop = int(match[2]) + 1 if self.ranges and match and match[2] else len(content)
        if start >= len(content):
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{len(content)}")
            handler.send_header("Content-Length", "0")
            return handler.end_headers()
        body = content[start:stop]
        fault = self.faults.pop(0) if self.faults and len(body) > self.spare else ("none",)
        if fault[0] == "status":
            handler.send_response(fault[1])
            for key, value in fault[2].items():
                handler.send_header(key, value)
            handler.send_header("Content-Length", "0")
            return handler.end_headers()
        handler.send_response(206 if self.ranges and match else 200)
        if self.ranges and match:
            last = start + len(body) - 1
            handler.send_header("Content-Range", f"bytes {start}-{last}/{len(content)}")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if fault[0] == "corrupt":
            body = body[:-1] + bytes([body[-1] ^ 1])
        if fault[0] in ("cut", "stall"):
            body = body[: fault[1]]
        if fault[0] == "garble":
            body = bytes(byte ^ 0x55 for byte in body)
        self.sent += len(body)
        handler.wfile.write(body)
        handler.wfile.flush()
        if fault[0] == "stall":
            self.over.wait(60)
        if fault[0] in ("cut", "stall"):
            handler.close_connection = True


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[FaultyServer]:
    """Run a server on a free local port; without a network of its own a machine skips the test."""
    if not has_loopback():
        pytest.skip("no loopback interface for a server")
    faulty = FaultyServer(files)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            try:
                faulty.answer(self)
            except ConnectionError:  # the client does not want the rest
                self.close_connection = True

        def log_message(self, *args):
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *args):  # a client that went away
            pass

    server = Quiet(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    faulty.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield faulty
    finally:
        faulty.over.set()
        server.shutdown()
        thread.join()
        server.server_close()
