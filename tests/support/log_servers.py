"""Stub log servers on an engine's own network: sockets made there, read by the test's own process."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

CLONE_NEWNET = 0x40000000
DEADLINE_S = 30.0


def socket_in(namespace: str, kind: socket.SocketKind, port: int = 0) -> socket.socket:
    """A socket bound to 127.0.0.1 in a named network namespace: it stays there, whoever uses it."""
    made: list[socket.socket] = []

    def enter() -> None:
        fd = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
        try:
            if ctypes.CDLL(None, use_errno=True).setns(fd, CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        finally:
            os.close(fd)
        sock = socket.socket(socket.AF_INET, kind)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", port))
        made.append(sock)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    return made[0]


class LogServer:
    """Takes everything that comes, on all connections together, until it is closed. answer: what to send back. tls: to
    be spoken by clients."""

    def __init__(
        self,
        sock: socket.socket,
        *,
        answer: Callable[[bytes], bytes] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.socket = sock
        self.received: list[bytes] = []
        self.connections = 0
        self._answer = answer
        self._tls = tls
        self._taken: list[socket.socket] = []
        self._stream = sock.type == socket.SOCK_STREAM
        if self._stream:
            sock.listen(16)
        serve = self._accept if self._stream else self._read
        threading.Thread(target=serve, args=(sock,)).start()

    @property
    def port(self) -> int:
        return int(self.socket.getsockname()[1])

    @property
    def data(self) -> bytes:
        return b"".join(self.received)

    def _accept(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                taken, _ = sock.accept()
                self.connections += 1
                self._taken.append(taken)
                threading.Thread(target=self._read, args=(taken,)).start()

    def _read(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_side=True)
            while data := sock.recv(1 << 20):
                self.received.append(data)
                if self._answer is not None:
                    sock.sendall(self._answer(data))
        if self._stream:
            sock.close()

    def until(self, fact: Callable[[LogServer], Any]) -> Any:
        deadline = time.monotonic() + DEADLINE_S
        while not (found := fact(self)):
            assert time.monotonic() < deadline, self.received[-5:]
            time.sleep(0.01)
        return found

    def close(self) -> None:
        for sock in (self.socket, *self._taken):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            if sock is self.socket:
                sock.close()


def certificate(directory: Path) -> tuple[Path, ssl.SSLContext]:
    """A self-signed one for 127.0.0.1, and the server's side of it."""
    cert, key = directory / "cert.pem", directory / "key.pem"
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=log "
        f"-addext subjectAltName=IP:127.0.0.1 -keyout {key} -out {cert}"
    )
    subprocess.run(command.split(), check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return cert, context


@contextlib.contextmanager
def log_server(sock: socket.socket, **options: Any) -> Iterator[LogServer]:
    server = LogServer(sock, **options)
    try:
        yield server
    finally:
        server.close()
