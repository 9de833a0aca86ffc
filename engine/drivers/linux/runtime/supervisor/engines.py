"""Connected engines: their requests in, answers and pushes out.

Owns: sockets and outboxes. Refuses to know: verbs; `dispatch` does them. A request is `(sequence, verb, arguments)`,
its answer `(sequence, ok, value)`; pushes carry sequence 0.
"""

from __future__ import annotations

import os
import socket

from . import wire
from .loop import WRITE, Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

OUTBOX_MAX = 100_000
LATER = object()
"""What a verb returns that answers when something else has happened."""


class Connection:
    """An engine. Answers queue when its socket is full; one that never reads is dropped, its exits stay journalled."""

    __slots__ = ("closed", "outbox", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.outbox: list[Any] = []
        self.closed = False


class Engines:
    def __init__(
        self, loop: Loop, listener: socket.socket, dispatch: Callable[[Connection, int, str, Any, list[int]], Any]
    ) -> None:
        self._loop, self._listener, self._dispatch = loop, listener, dispatch
        self._connections: list[Connection] = []

    def listen(self) -> None:
        self._loop.watch(self._listener.fileno(), self._on_connect)

    def __bool__(self) -> bool:
        return bool(self._connections)

    def push(self, kind: str, value: Any) -> None:
        for connection in list(self._connections):
            self.answer(connection, 0, True, (kind, value))

    def answer(self, connection: Connection, sequence: int, ok: bool, value: Any) -> None:
        if connection.closed:
            return
        connection.outbox.append((sequence, ok, value))
        if len(connection.outbox) == 1:
            self._flush(connection)

    def _on_connect(self, events: int) -> None:
        sock, _ = self._listener.accept()
        sock.setblocking(False)
        connection = Connection(sock)
        self._connections.append(connection)
        self._loop.watch(sock.fileno(), lambda events: self._on_ready(connection, events))

    def _on_ready(self, connection: Connection, events: int) -> None:
        if events & WRITE:
            self._flush(connection)
        if connection.closed or not events & ~WRITE:
            return
        try:
            message = wire.receive(connection.sock)
        except BlockingIOError:
            return
        except OSError:
            message = None
        if message is None:
            self._drop(connection)
            return
        (sequence, verb, arguments), fds = message
        try:
            value = self._dispatch(connection, sequence, verb, arguments, fds)
        except OSError as error:
            text = error.strerror or str(error)
            self.answer(connection, sequence, False, {"message": text, "errno": error.errno or 0, "exit_code": 0})
        except Exception as error:
            # One bad request must not end every container's parent.
            words = f"{type(error).__name__}: {error}"
            self.answer(connection, sequence, False, {"message": words, "errno": 0, "exit_code": 128})
        else:
            if value is not LATER:
                self.answer(connection, sequence, True, value)
        finally:
            for fd in fds:
                os.close(fd)

    def _flush(self, connection: Connection) -> None:
        while connection.outbox:
            try:
                wire.send(connection.sock, connection.outbox[0])
            except BlockingIOError:
                if len(connection.outbox) > OUTBOX_MAX:
                    self._drop(connection)
                else:
                    self._loop.want_write(connection.sock.fileno(), True)
                return
            except OSError:
                self._drop(connection)
                return
            del connection.outbox[0]
        self._loop.want_write(connection.sock.fileno(), False)

    def _drop(self, connection: Connection) -> None:
        if not connection.closed:
            connection.closed = True
            self._loop.unwatch(connection.sock.fileno())
            connection.sock.close()
            self._connections.remove(connection)
