"""The supervisor's end of the copier: starting it, talking to it without ever waiting for it, replacing it.

Owns: which attachments are open, which processes still have output to copy, who waits for that.
Refuses to know: what the copier does with a stream.
"""

from __future__ import annotations

import os
import signal
import socket

from . import copier, kernel, wire
from .loop import WRITE, Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from .engines import Connection, Engines
    from .held import Process


class CopierLink:
    def __init__(self, loop: Loop, engines: Engines, is_live: Callable[[Process], bool]) -> None:
        self._loop, self._engines, self._is_live = loop, engines, is_live
        self.pid = 0
        self._sock: socket.socket | None = None
        self._outbox: list[tuple[Any, tuple[int, ...]]] = []
        self._attachments: dict[int, Connection] = {}
        self._undrained: dict[tuple[str, str, int], Process] = {}
        self._drain_waits: list[tuple[tuple[str, str, int], Connection, int]] = []
        self._next_ident = 1

    def start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = os.fork()
        if self.pid == 0:
            _become_copier(theirs)
        theirs.close()
        ours.setblocking(False)
        self._sock = ours
        self._loop.watch(ours.fileno(), self._on_ready)

    def replace(self) -> None:
        """The copier died (nobody should kill it, but the kernel's OOM killer may): another goes on with the kept
        descriptors. What the old one had read and not written is lost, and so are its clients."""
        assert self._sock is not None
        self._loop.unwatch(self._sock.fileno())
        self._sock.close()
        for _, fds in self._outbox:
            for fd in fds:
                os.close(fd)
        self._outbox.clear()
        for ident in list(self._attachments):
            self._heard_end(ident, "gone")
        self.start()
        for process in list(self._undrained.values()):
            self.open(process)
            if not self._is_live(process):
                self.exited(process)

    def __bool__(self) -> bool:
        """Whether output is still being copied."""
        return bool(self._undrained)

    # ---- saying

    def open(self, process: Process) -> None:
        what, fds = process.stream()
        self._undrained[process.run_key] = process
        self._say(("open", process.id, process.exec_id, process.run, what), fds)

    def exited(self, process: Process) -> None:
        self._say(("exited", process.id, process.exec_id, process.run))

    def abort(self, container: str, exec_id: str) -> None:
        """There will be no output for those that are attached ahead of it."""
        self._say(("abort", container, exec_id))

    def attach(self, connection: Connection, client_fd: int, *details: Any) -> int:
        """The attachment's number; its end is pushed as `stream_end` to the engine that asked."""
        ident, self._next_ident = self._next_ident, self._next_ident + 1
        self._attachments[ident] = connection
        self._say(("attach", ident, *details), (os.dup(client_fd),))
        return ident

    def cancel(self, ident: int) -> None:
        if ident in self._attachments:
            self._say(("cancel", ident))

    def when_drained(self, key: tuple[str, str, int], connection: Connection, sequence: int) -> None:
        self._drain_waits.append((key, connection, sequence))

    def is_undrained(self, key: tuple[str, str, int]) -> bool:
        return key in self._undrained

    def _say(self, message: tuple[Any, ...], fds: tuple[int, ...] = ()) -> None:
        """Descriptors given here are closed once sent. Never blocks: the copier may be waiting for this loop."""
        self._outbox.append((message, fds))
        if len(self._outbox) == 1:
            self._flush()

    def _flush(self) -> None:
        assert self._sock is not None
        while self._outbox:
            message, fds = self._outbox[0]
            try:
                wire.send(self._sock, message, fds)
            except BlockingIOError:
                self._loop.want_write(self._sock.fileno(), True)
                return
            except OSError:
                return  # it died: SIGCHLD brings the replacement, which is told anew
            for fd in fds:
                os.close(fd)
            del self._outbox[0]
        self._loop.want_write(self._sock.fileno(), False)

    # ---- hearing

    def _on_ready(self, events: int) -> None:
        if events & WRITE:
            self._flush()
        assert self._sock is not None
        try:
            message = wire.receive(self._sock)
        except BlockingIOError:
            return
        except OSError:
            message = None
        if message is None:
            self._loop.unwatch(self._sock.fileno())
            return
        (verb, *arguments), _ = message
        getattr(self, "_heard_" + verb)(*arguments)

    def _heard_end(self, ident: int, reason: str) -> None:
        connection = self._attachments.pop(ident, None)
        if connection is not None:
            self._engines.answer(connection, 0, True, ("stream_end", (ident, reason)))

    def _heard_stdin_closed(self, container: str, exec_id: str, run: int) -> None:
        process = self._undrained.get((container, exec_id, run))
        if process is not None:
            process.stdin_closed()

    def _heard_drained(self, container: str, exec_id: str, run: int) -> None:
        key = (container, exec_id, run)
        process = self._undrained.pop(key, None)
        if process is not None:
            process.close()
        for entry in [entry for entry in self._drain_waits if entry[0] == key]:
            self._drain_waits.remove(entry)
            self._engines.answer(entry[1], entry[2], True, None)


def _become_copier(control: socket.socket) -> NoReturn:
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        kernel.close_all_but({0, 1, 2, control.fileno()})
        copier.Copier(control).run()
    finally:
        os._exit(1)
