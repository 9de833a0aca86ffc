"""Who asks, and under which name the log follows it: SO_PEERCRED, and the correlation id."""

from __future__ import annotations

import contextlib
import functools
import os
import pwd
import secrets
import socket
import struct
from collections.abc import Iterable
from typing import Any

NOBODY_LOGGED_IN = 0xFFFFFFFF


class Peer:
    """Who is at the other end. The executable's path is read when first asked for: most requests are reads, and only
    commands record their actor."""

    def __init__(self, *, uid: int = -1, gid: int = -1, pid: int = 0, address: str = "") -> None:
        self.uid, self.gid, self.pid, self.address = uid, gid, pid, address
        self._actor = ""

    @classmethod
    def of(cls, sock: Any) -> Peer:
        """From a connected socket. A unix peer's credentials are those of the process that connected."""
        if sock.family == socket.AF_UNIX:
            pid, uid, gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            return cls(uid=uid, gid=gid, pid=pid)
        host, port = sock.getpeername()[:2]
        return cls(address=f"{host}:{port}")

    @property
    def actor(self) -> str:
        """`uid=0 gid=0 pid=412 user=root login=carol exe=/usr/bin/docker`, or `tcp:127.0.0.1:5333`. As of the call:
        login is who began the session, when that is somebody else (sudo); what is not known is left out, and all of the
        process when it has gone."""
        if not self._actor:
            self._actor = f"tcp:{self.address}" if self.address else self._describe()
        return self._actor

    def _describe(self) -> str:
        words = [f"uid={self.uid}", f"gid={self.gid}", f"pid={self.pid}"]
        if name := user_name(self.uid):
            words.append(f"user={name}")
        with contextlib.suppress(OSError, ValueError):
            login = int(_read(f"/proc/{self.pid}/loginuid"))
            if login not in (self.uid, NOBODY_LOGGED_IN):
                words.append(f"login={user_name(login) or login}")
        with contextlib.suppress(OSError):
            words.append(f"exe={os.readlink(f'/proc/{self.pid}/exe')}")
        return " ".join(words)


def _read(path: str) -> bytes:
    """A line of /proc, at once: a `Path` takes three times as long, and this is asked of every connection that acts."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 64)
    finally:
        os.close(fd)


@functools.lru_cache(maxsize=256)
def user_name(uid: int) -> str:
    """As the host's user database has it, once for each; "" when it has none, or one with a space in it."""
    try:
        name = pwd.getpwuid(uid).pw_name
    except (KeyError, OSError):
        return ""
    return "" if any(character.isspace() for character in name) else name


def correlation_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The trace id of a W3C `traceparent`, an `X-Request-Id`, or 16 random bytes in hex."""
    named = {name.lower(): value for name, value in headers if name.lower() in (b"traceparent", b"x-request-id")}
    trace = named.get(b"traceparent", b"").decode("latin-1").split("-")
    if len(trace) >= 4 and len(trace[1]) == 32 and trace[1].strip("0"):
        return trace[1]
    return named.get(b"x-request-id", b"").decode("latin-1")[:128] or secrets.token_hex(16)
