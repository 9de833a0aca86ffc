"""`replay serve`: the page over the log as it grows.

Owns: a small HTTP server for one host's eyes. It answers `/` with the page and `/data?after=POSITION` with what came
since; the file is opened anew for every look, because the engine may come and go.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import msgspec

from engine.aggregates.decider import Recorded
from engine.codec import LogError
from replay.report.model import Painter
from replay.report.page import page

Since = Callable[[int], Iterable[Recorded]]
"""The events past a position, read now. Raises LogError."""


class Gallery:
    """The painter, for several who look at once."""

    def __init__(self, painter: Painter, since: Since, events_max: int) -> None:
        self._painter = painter
        self._since = since
        self._events_max = events_max
        self._lock = threading.Lock()

    def page(self) -> bytes:
        with self._lock:
            self._painter.take(self._since(self._painter.position))
            return page(self._painter.picture(events_max=self._events_max)).encode()

    def data(self, after: int) -> bytes:
        with self._lock:
            self._painter.take(self._since(self._painter.position))
            return msgspec.json.encode(self._painter.picture(after=after))


def server(gallery: Gallery, host: str, port: int) -> ThreadingHTTPServer:
    """Bound and not yet serving. Only names of this host are answered: a page from elsewhere that makes a browser ask
    for another name gets nothing."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            target = urlsplit(self.path)
            name = self.headers.get("Host", "").rsplit(":", 1)[0]
            if name not in (host, "localhost", "127.0.0.1", "[::1]"):
                self.send_error(403)
                return
            after = parse_qs(target.query).get("after", ["0"])[0]
            try:
                match target.path:
                    case "/":
                        self._answer("text/html; charset=utf-8", gallery.page())
                    case "/data":
                        self._answer("application/json", gallery.data(int(after) if after.isdecimal() else 0))
                    case _:
                        self.send_error(404)
            except LogError as error:
                self.send_error(503, explain=str(error))

        def _answer(self, content_type: str, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Silent: who looks is of no interest."""

    return ThreadingHTTPServer((host, port), Handler)
