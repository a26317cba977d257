"""An HTTP server that stands before another and fails as networks do: some answers are refused, some are cut short."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SLOW_DOWN = b'<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>'


@dataclass
class Troubles:
    """What goes wrong with the next requests: 'slow' (503), 'cut' (half the body), 'flip' (a changed byte). After
    them all goes well. requests: paths seen so far."""

    coming: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    endpoint: str = ""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    behind: str
    troubles: Troubles

    def do_GET(self) -> None:
        self.troubles.requests.append(self.path)
        trouble = self.troubles.coming.pop(0) if self.troubles.coming else ""
        if trouble == "slow":
            self._answer(503, {"Content-Type": "application/xml"}, SLOW_DOWN, len(SLOW_DOWN))
            return
        status, headers, body = self._forwarded()
        if trouble == "flip":
            body = bytes([body[0] ^ 1]) + body[1:]
        self._answer(status, headers, body[: len(body) // 2] if trouble == "cut" else body, len(body))

    def _forwarded(self) -> tuple[int, dict[str, str], bytes]:
        kept = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection")}
        try:
            with urllib.request.urlopen(urllib.request.Request(self.behind + self.path, headers=kept)) as answer:
                return answer.status, dict(answer.headers), answer.read()
        except urllib.error.HTTPError as error:
            return error.code, dict(error.headers), error.read()

    def _answer(self, status: int, headers: dict[str, str], body: bytes, length: int) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "connection", "server", "date"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = len(body) < length

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def flaky_server(behind: str) -> Iterator[Troubles]:
    """Forwards GET requests to the endpoint `behind`."""
    troubles = Troubles()
    handler = type("Handler", (_Handler,), {"behind": behind, "troubles": troubles})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    troubles.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield troubles
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
