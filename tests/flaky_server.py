"""An HTTP server that stands before another and fails as networks do: some answers are refused, cut short, or lost."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SLOW_DOWN = b'<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>'
DENIED = b'<?xml version="1.0"?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>'
NOT_FORWARDED = ("host", "connection", "expect", "transfer-encoding", "content-length")


@dataclass
class Troubles:
    """What goes wrong with the next requests: 'slow' (503), 'denied' (403), 'cut' (half the body), 'flip' (a changed
    byte), 'lost' (the server behind has done it, and the connection ends without an answer). After them all goes well.

    of: the methods that have trouble. dropped: headers, in small letters, that do not come through. requests: paths
    seen so far, and in `methods` how.
    """

    coming: list[str] = field(default_factory=list)
    dropped: tuple[str, ...] = ()
    of: tuple[str, ...] = ("GET", "PUT", "POST", "DELETE", "HEAD")
    requests: list[str] = field(default_factory=list)
    methods: list[str] = field(default_factory=list)
    endpoint: str = ""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    behind: str
    troubles: Troubles

    def _serve(self) -> None:
        troubles = self.troubles
        troubles.requests.append(self.path)
        troubles.methods.append(self.command)
        sent = self._received()
        trouble = troubles.coming.pop(0) if troubles.coming and self.command in troubles.of else ""
        if trouble in ("slow", "denied"):
            status, said = (503, SLOW_DOWN) if trouble == "slow" else (403, DENIED)
            self._answer(status, {"Content-Type": "application/xml"}, said, len(said))
            return
        status, headers, body = self._forwarded(sent)
        if trouble == "lost":
            self.close_connection = True
            return
        if trouble == "flip":
            body = bytes([body[0] ^ 1]) + body[1:]
        length = int(headers.get("Content-Length", 0)) if self.command == "HEAD" else len(body)
        self._answer(status, headers, body[: len(body) // 2] if trouble == "cut" else body, length)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve  # noqa: N815  (the names that http.server looks for)

    def _received(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        received = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            received += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return received

    def _forwarded(self, sent: bytes) -> tuple[int, dict[str, str], bytes]:
        dropped = {*NOT_FORWARDED, *self.troubles.dropped}
        kept = {name: value for name, value in self.headers.items() if name.lower() not in dropped}
        kept.setdefault("Content-Type", "application/octet-stream")  # else urllib calls it a form
        request = urllib.request.Request(self.behind + self.path, data=sent or None, headers=kept, method=self.command)
        try:
            with urllib.request.urlopen(request) as answer:
                return answer.status, dict(answer.headers), answer.read()
        except urllib.error.HTTPError as error:
            return error.code, dict(error.headers), error.read()

    def _answer(self, status: int, headers: dict[str, str], body: bytes, length: int) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "connection", "server", "date", "transfer-encoding"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = len(body) < length and self.command != "HEAD"

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def flaky_server(behind: str) -> Iterator[Troubles]:
    """Forwards requests to the endpoint `behind`."""
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
