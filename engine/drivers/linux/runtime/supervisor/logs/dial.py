"""Connecting to a log server without anybody waiting for it.

Sockets on this host answer at once; names and networks are waited for in a child (beside.py), which hands the connected
socket back. A server is the plan's dictionary: `network`, `host` and `port` or `paths`.
"""

from __future__ import annotations

import socket

from ..beside import beside

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..loop import Loop

TIMEOUT_S = 10.0
PART_S = 5.0
KINDS = {"unix": socket.SOCK_STREAM, "unixgram": socket.SOCK_DGRAM, "udp": socket.SOCK_DGRAM}


def dial(loop: Loop, server: dict[str, Any], done: Callable[[int, str], None]) -> None:
    """done(fd, "") or done(-1, why not): perhaps before this returns."""
    if server["paths"]:
        done(*_local(server["paths"]))
        return

    def answered(complaint: Any, fds: list[int]) -> None:
        done(fds[0] if fds else -1, complaint or "it could not be tried")

    beside(loop, lambda: _remote(server), answered)


def _local(paths: list[tuple[str, str]]) -> tuple[int, str]:
    complaint = ""
    for network, path in paths:
        sock = socket.socket(socket.AF_UNIX, KINDS[network])
        sock.setblocking(False)
        try:
            sock.connect(path)
        except OSError as error:
            complaint = f"{path}: {error.strerror}"
            sock.close()
            continue
        return sock.detach(), ""
    return -1, complaint


def _remote(server: dict[str, Any]) -> tuple[str, tuple[int, ...]]:
    """In the child. The host goes as bytes: as text its encoding would be imported first."""
    complaint = "no address"
    kind = KINDS.get(server["network"], socket.SOCK_STREAM)
    try:
        found = socket.getaddrinfo(server["host"].encode() or None, server["port"], 0, kind)
    except OSError as error:
        return f"{server['host']}: {error.strerror}", ()
    for family, _, _, _, address in found:
        sock = socket.socket(family, kind)
        sock.settimeout(TIMEOUT_S)
        try:
            sock.connect(address)
        except OSError as error:
            complaint = error.strerror or str(error)
            sock.close()
            continue
        sock.setblocking(False)
        return "", (sock.detach(),)
    return complaint, ()


def part(loop: Loop, sock: Any) -> None:
    """Say that no more comes, and close when the other side has, or after PART_S."""
    fd = sock.fileno()
    for say in (getattr(sock, "unwrap", None), lambda: sock.shutdown(socket.SHUT_WR)):
        try:
            if say is not None:
                say()  # unwrap sends TLS's closing alert; its answer is not waited for
        except (OSError, ValueError):
            continue

    def close() -> None:
        loop.forget(sock)
        loop.unwatch(fd)
        sock.close()

    def heard(events: int) -> None:
        try:
            while sock.recv(4096):
                pass
        except BlockingIOError:
            return
        except OSError:
            pass
        close()

    loop.watch(fd, heard)
    loop.after(PART_S, sock, close)
