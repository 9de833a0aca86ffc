"""A connection to a log server, and the bounded queue before it.

Nothing here waits: what the server does not take at once is queued. While the queue is over its limit, `full` asks that
the container's output is not read (mode blocking), or the oldest entries are dropped: in mode non-blocking always; in
mode blocking only once the server has refused as many attempts in a row as the driver has patience for, as moby's
drivers give messages up then. A connection that breaks is made again when there is something to send, ever more seldom
while that fails; entries that were sent in part, or not acknowledged, are sent again.
"""

from __future__ import annotations

import collections
import errno
import os
import socket
import sys
import time

from ..loop import HANGUP, READ, WRITE
from .dial import dial, part
from .secure import secured
from .spool import Spool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..loop import Loop

PIECE_SIZE = 65536
LEAVE_S = 10.0
"""How long the rest may take once the output has ended."""
ACK_SIZE = 24


class Outlet:
    """spec["server"]: see dial.py; `tls` as in secure.py or None. spec["queue"]: limit (bytes), lossy (drop when full),
    patience (attempts, 0 for ever), wait_s, wait_factor, wait_max_s, write_s and ack_s (without progress, 0 for ever),
    renew_s (age of a connection that is given up, 0 never), acks (each entry ends with an id that the server repeats).

    spec["spool_fd"]: see spool.py, or -1. on_room: called when output may be read again. oversize(socket, entry):
    another way for too big a datagram."""

    def __init__(
        self,
        spec: dict[str, Any],
        fd: int,
        loop: Loop,
        on_room: Callable[[], None],
        oversize: Callable[[socket.socket, bytes], None] | None = None,
    ) -> None:
        self._server, self._rules = spec["server"], spec["queue"]
        self._loop, self._on_room, self._oversize = loop, on_room, oversize
        self._datagrams = False
        self._sock: socket.socket | None = None
        self._ready = self._dialling = self._told = False
        self._queue: collections.deque[bytes] = collections.deque()
        self._going: list[bytes] = []
        self._rest = memoryview(b"")
        self._unacked: collections.deque[bytes] = collections.deque()
        self._heard = b""
        self._size = self._failures = 0
        self._dialled_at = float("-inf")
        self._done: Callable[[], None] | None = None
        self._ended = False
        self.lost = 0
        """Entries dropped."""
        self._spool = Spool(spec["spool_fd"]) if spec.get("spool_fd", -1) >= 0 else None
        if self._spool is not None:
            left = self._spool.load()
            self._queue.extend(left)
            self._size = sum(map(len, left))
        if fd >= 0:
            self._adopt(fd)
        elif self._queue:
            self._flush()

    # ---- the queue

    @property
    def full(self) -> bool:
        return self._size > self._rules["limit"] and not self._drops()

    def _drops(self) -> bool:
        patience = self._rules["patience"]
        return bool(self._rules["lossy"] or (not self._ready and patience and self._failures >= patience))

    def give(self, entries: list[bytes]) -> None:
        self._queue.extend(entries)
        self._size += sum(map(len, entries))
        self._flush()
        self._save()

    def _save(self) -> None:
        """What still waits is put where it outlives this process."""
        if self._spool is None:
            return
        waiting = len(self._unacked) + len(self._going) + len(self._queue)
        unsaved = waiting - len(self._spool)
        if unsaved > 0:
            self._spool.keep([*self._unacked, *self._going, *self._queue][-unsaved:])

    def _finished(self, entries: list[bytes]) -> None:
        """The oldest ones are done with."""
        self._size -= sum(map(len, entries))
        if self._spool is not None and self._spool:
            self._spool.drop(len(entries))

    def _trim(self) -> None:
        dropped = 0
        while self._size > self._rules["limit"] and len(self._queue) > 1:
            self._size -= len(self._queue.popleft())
            dropped += 1
        self.lost += dropped
        if dropped and self._spool is not None and self._spool:
            self._spool.replace([*self._unacked, *self._going, *self._queue])

    def hurry(self) -> None:
        """Drop rather than be full, from now on."""
        self._rules = {**self._rules, "lossy": True}
        self._settle()

    def leave(self, done: Callable[[], None]) -> None:
        """No more entries come: call when all is sent, or when that has taken too long."""
        self._done = done
        self._loop.after(LEAVE_S, (self, "leave"), self._end)
        self._flush()

    def _end(self) -> None:
        done, self._done = self._done, None
        if done is None:
            return
        self._ended = True
        self.lost += len(self._queue) + len(self._going) + len(self._unacked)
        if self.lost:
            self._tell(f"{self.lost} entries were lost")
        for what in ("leave", "dial", "stall"):
            self._loop.forget((self, what))
        self._part()
        if self._spool is not None:
            self._spool.close()
            self._spool = None
        done()

    def _settle(self) -> None:
        """After anything that may have made room, or ended the last of it."""
        if self._size > self._rules["limit"] and self._drops():
            self._trim()
        if self._size <= self._rules["limit"] // 2 or self._drops():
            self._on_room()
        if self._done is not None and not (self._queue or self._going or self._unacked):
            self._end()

    # ---- sending

    def _flush(self) -> None:
        renew_s = self._rules["renew_s"]
        idle = self._sock is not None and not self._going and not self._unacked
        if renew_s and idle and time.monotonic() - self._dialled_at > renew_s:
            self._part()
        if self._sock is None:
            if self._queue:
                self._redial()
        elif self._ready:
            self._send(self._sock)
        self._settle()

    def _send(self, sock: socket.socket) -> None:
        while True:
            try:
                while self._rest or self._load():
                    self._rest = self._rest[sock.send(self._rest) :]
                    if not self._rest:
                        self._sent()
                break
            except OSError as error:
                if _is_wait(error):
                    break
                if not self._datagrams or not self._skipped(sock, error):
                    self._broken(error)
                    return
        self._loop.want(sock.fileno(), READ | WRITE if self._rest else READ)
        self._await_progress()

    def _load(self) -> bool:
        """The next piece: one datagram, or as many entries as go well in one call."""
        if not self._queue:
            return False
        if self._datagrams:
            self._going = [self._queue.popleft()]
        else:
            size = 0
            while self._queue and size < PIECE_SIZE:
                self._going.append(self._queue.popleft())
                size += len(self._going[-1])
        self._rest = memoryview(b"".join(self._going))
        return True

    def _sent(self) -> None:
        if self._rules["acks"]:
            self._unacked.extend(self._going)
        else:
            self._finished(self._going)
        self._going = []

    def _skipped(self, sock: socket.socket, error: OSError) -> bool:
        """Whether a refused datagram has been dealt with. udp: the refusal was of an earlier one, this one goes now.
        One that is too big goes as a file where that is known, or not at all."""
        refused = error.errno == errno.ECONNREFUSED and sock.family != socket.AF_UNIX
        if not refused and error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
            return False
        try:
            if refused:
                sock.send(self._rest)
            elif self._oversize is not None:
                self._oversize(sock, self._going[0])
            else:
                self.lost += 1
        except OSError:
            self.lost += 1
        self._rest = memoryview(b"")
        self._sent()
        return True

    def _await_progress(self) -> None:
        seconds = self._rules["write_s"] if self._rest else self._rules["ack_s"] if self._unacked else 0
        if seconds:
            self._loop.after(seconds, (self, "stall"), lambda: self._broken(TimeoutError(errno.ETIMEDOUT, "timed out")))
        else:
            self._loop.forget((self, "stall"))

    # ---- the connection

    def _adopt(self, fd: int) -> None:
        sock = socket.socket(fileno=fd)
        sock.setblocking(False)
        self._datagrams = sock.type == socket.SOCK_DGRAM
        self._dialled_at = time.monotonic()
        try:
            self._sock = secured(sock, self._server) if self._server["tls"] else sock
        except OSError as error:
            self._failed(str(error))
            return
        self._ready = not self._server["tls"]
        self._loop.watch(self._sock.fileno(), self._on_event, READ)
        self._on_event(0)

    def _on_event(self, events: int) -> None:
        sock = self._sock
        assert sock is not None
        try:
            if not self._ready:
                self._shake_hands(sock)
            elif events & ~WRITE:
                self._hear(sock)
                if events & HANGUP:
                    raise ConnectionResetError(errno.ECONNRESET, "gone")
        except OSError as error:
            if not _is_wait(error):
                self._broken(error)
                return
        if self._ready and self._sock is sock:
            self._failures = 0
            self._told = False
            self._send(sock)
        self._settle()

    def _shake_hands(self, sock: Any) -> None:
        try:
            sock.do_handshake()
        except OSError as error:
            if type(error).__name__ == "SSLWantWriteError":
                self._loop.want(sock.fileno(), READ | WRITE)
            elif _is_wait(error):
                self._loop.want(sock.fileno(), READ)
            raise
        self._ready = True

    def _hear(self, sock: socket.socket) -> None:
        """Acknowledgements, or the end. A datagram's error was told by the call that it made fail."""
        try:
            data = sock.recv(PIECE_SIZE)
        except ConnectionRefusedError:
            if not self._datagrams or sock.family == socket.AF_UNIX:
                raise
            return
        if not data and not self._datagrams:
            raise ConnectionResetError(errno.ECONNRESET, "closed by the server")
        if self._rules["acks"]:
            self._acknowledge(self._heard + data)

    def _acknowledge(self, data: bytes) -> None:
        """Ids come in the order sent, between bytes that do not matter."""
        position = 0
        while self._unacked:
            ident = self._unacked[0][-ACK_SIZE:]
            found = data.find(ident, position)
            if found < 0:
                break
            position = found + len(ident)
            self._finished([self._unacked.popleft()])
        self._heard = data[position:][-PIECE_SIZE:]

    def _broken(self, error: OSError) -> None:
        if not self._ready:
            self._failed(str(error))
            return
        self._close()
        self._failed_once(error.strerror or str(error))
        self._flush()

    def _close(self) -> None:
        """What was not sent whole is in front of the queue again."""
        sock, self._sock = self._sock, None
        self._loop.forget((self, "stall"))
        if sock is not None:
            self._loop.unwatch(sock.fileno())
            sock.close()
        sent = 0 if self._rules["acks"] else sum(map(len, self._going)) - len(self._rest)
        while self._going and sent >= len(self._going[0]):
            sent -= len(self._going[0])
            self._finished([self._going.pop(0)])
        self._queue.extendleft(reversed([*self._unacked, *self._going]))
        self._unacked.clear()
        self._going, self._rest, self._heard, self._ready = [], memoryview(b""), b"", False

    def _part(self) -> None:
        """End a connection that works. Bytes of the server's that lie unread (a TLS session ticket) would make closing
        it a reset, and that would lose what is still on its way: so the server closes first, or has had the time."""
        sock, self._sock = self._sock, None
        if sock is not None and self._ready and not self._datagrams:
            self._loop.unwatch(sock.fileno())
            part(self._loop, sock)
        elif sock is not None:
            self._loop.unwatch(sock.fileno())
            sock.close()
        self._close()

    def _redial(self) -> None:
        if self._dialling:
            return
        self._dialling = True
        rules = self._rules
        wait_s = min(rules["wait_s"] * rules["wait_factor"] ** min(self._failures, 64), rules["wait_max_s"])
        left_s = self._dialled_at + wait_s - time.monotonic()
        if left_s > 0:
            self._loop.after(left_s, (self, "dial"), self._dial)
        else:
            self._dial()

    def _dial(self) -> None:
        self._dialled_at = time.monotonic()
        dial(self._loop, self._server, self._dialled)

    def _dialled(self, fd: int, complaint: str) -> None:
        self._dialling = False
        if self._ended:
            if fd >= 0:
                os.close(fd)
        elif fd < 0:
            self._failed(complaint)
        else:
            self._adopt(fd)

    def _failed(self, why: str) -> None:
        self._close()
        self._failures += 1
        self._failed_once(why)
        self._flush()

    def _failed_once(self, why: str) -> None:
        if not self._told:
            self._told = True
            self._tell(why)

    def _tell(self, what: str) -> None:
        """Into the supervisor's own log."""
        server = self._server
        place = server["paths"][0][1] if server["paths"] else f"{server['host']}:{server['port']}"
        sys.stderr.write(f"log server {server['network']}://{place}: {what}\n")
        sys.stderr.flush()


def _is_wait(error: OSError) -> bool:
    return isinstance(error, BlockingIOError) or type(error).__name__ in ("SSLWantReadError", "SSLWantWriteError")
