"""The copier: a child of the supervisor through which all output and input of all processes goes.

Owns: reading what processes write, their logs, attached clients, their input. Refuses to know: how processes are
started or end; the supervisor says `open`, `exited`, and hands over descriptors.

One epoll loop, one read of 64 KiB per ready descriptor and turn, so that a flood in one container leaves the others
their turn. Losing the supervisor does not stop it: it copies on until the last stream ends.

Back-pressure: when a client has more than 1 MiB waiting, its process is not read until half of it is gone, and nothing
is dropped; a log that can take no more does the same (logs/). The supervisor keeps duplicates of every descriptor, so
after a crash a new copier goes on where this one stopped; therefore closing a stdin must be told to it
(`stdin_closed`).
"""

from __future__ import annotations

import errno
import os
import select
import socket
import sys
import time

from . import kernel, wire
from .clients import BACKLOG_MAX, Client
from .logs import open_writer
from .loop import Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from .logs import Writer

NAMES = {1: "stdout", 2: "stderr"}
READ_SIZE = 65536
GRACE_S = 2.0
"""How long the output of an ended process may stay open, held by a child of its: moby waits as long."""
HUNG_TERMINAL_S = 0.1
LOOK_AGAIN_S = 0.001
"""How often a client that has not read the head of its answer is looked at, while there is output for it."""
LOG_GRACE_S = 10.0
"""How long the log of an ended process may hold up its last output (moby's loggerCloseTimeout)."""


class Stream:
    """The stdio of one process."""

    __slots__ = ("clients", "deadline", "ended", "exited", "key", "log", "once", "outputs", "paused", "retired", "run",
                 "stdin", "stdin_closing", "stdin_waits", "tty")  # fmt: skip

    def __init__(self, key: tuple[str, str], run: int, shape: dict[str, Any]) -> None:
        self.key, self.run = key, run
        self.tty, self.once = shape["tty"], shape["stdin_once"]
        self.outputs: dict[int, int] = {}
        self.log: Writer | None = None
        self.stdin = -1
        self.stdin_waits = self.stdin_closing = False
        self.clients: list[Client] = []
        self.paused = self.exited = self.ended = self.retired = False
        self.deadline = 0.0


class Copier:
    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._loop = Loop()
        self._streams: dict[tuple[str, str], Stream] = {}
        self._early: dict[tuple[str, str], list[Client]] = {}
        self._clients: dict[int, tuple[Client, tuple[str, str]]] = {}
        self._hung: dict[int, tuple[Stream, float]] = {}
        self._supervised = True

    def run(self) -> NoReturn:
        kernel.keep_memory(16 << 20)
        self._watch(self._control.fileno(), select.EPOLLIN, self._on_control)
        while self._supervised or self._streams:
            self._loop.turn(self._patience())
            self._on_time()
        os._exit(0)

    # ---- the loop's plumbing

    def _watch(self, fd: int, events: int, handler: Callable[[int], None]) -> None:
        self._loop.watch(fd, handler, events)

    def _unwatch(self, fd: int) -> None:
        self._loop.unwatch(fd)

    def _tell(self, *message: Any) -> None:
        if self._supervised:
            try:
                wire.send(self._control, message)
            except OSError:
                self._supervised = False

    def _patience(self) -> float:
        deadlines = [s.deadline for s in self._streams.values() if s.deadline]
        deadlines += [when for _, when in self._hung.values()]
        return max(0.0, min(deadlines) - time.monotonic()) if deadlines else -1

    def _on_time(self) -> None:
        now = time.monotonic()
        for fd, (stream, when) in list(self._hung.items()):
            if when <= now:
                del self._hung[fd]
                self._watch_output(stream, fd)
        for stream in list(self._streams.values()):
            if stream.deadline and stream.deadline <= now:
                self._drain_and_close(stream)

    # ---- what the supervisor says

    def _on_control(self, events: int) -> None:
        try:
            message = wire.receive(self._control)
        except OSError:
            message = None
        if message is None:
            self._supervised = False
            self._unwatch(self._control.fileno())
            return
        (verb, *arguments), fds = message
        getattr(self, "_say_" + verb)(fds, *arguments)

    def _say_open(self, fds: list[int], container: str, exec_id: str, run: int, shape: dict[str, Any]) -> None:
        """The descriptors come in the order stdout, stderr, stdin, log, spool, as far as `shape` has them."""
        stream = Stream((container, exec_id), run, shape)
        for number, name in NAMES.items():
            if shape[name]:
                fd = fds.pop(0)
                os.set_blocking(fd, False)
                stream.outputs[fd] = number
        if shape["stdin"]:
            stream.stdin = fds.pop(0)
            os.set_blocking(stream.stdin, False)
        log_fd = fds.pop(0) if shape["log_fd"] else -1
        log = {**shape["log"], "spool_fd": fds.pop(0) if shape["spool_fd"] else -1}
        try:
            stream.log = open_writer(log, log_fd, self._loop, lambda: self._resume(stream))
        except Exception as error:
            # Without this log rather than without everybody's: another copier would meet the same plan again.
            sys.stderr.write(f"the log of {container} was not opened: {error!r}\n")
        self._streams[stream.key] = stream
        stream.clients = self._early.pop(stream.key, [])
        for fd in stream.outputs:
            self._watch_output(stream, fd)
        for client in stream.clients:
            self._pass_input(stream, client, b"")
            self._watch_client(stream, client)

    def _say_attach(
        self, fds: list[int], ident: int, container: str, exec_id: str, want: dict[str, Any], keys: bytes, early: bytes
    ) -> None:
        client = Client(ident, fds[0], want, keys, early)
        key = (container, exec_id)
        self._clients[ident] = (client, key)
        stream = self._streams.get(key)
        if stream is not None:
            stream.clients.append(client)
            self._pass_input(stream, client, b"")
            self._watch_client(stream, client)
        else:
            self._early.setdefault(key, []).append(client)
            # Input stays in the socket until there is a process; only a client that leaves is noticed.
            self._watch(client.fileno, 0, lambda events: self._leave(None, client, "gone"))

    def _say_exited(self, fds: list[int], container: str, exec_id: str, run: int) -> None:
        stream = self._streams.get((container, exec_id))
        if stream is None or stream.run != run:
            self._tell("drained", container, exec_id, run)
            return
        stream.exited = True
        stream.deadline = time.monotonic() + GRACE_S
        if stream.log is not None:
            self._loop.after(LOG_GRACE_S, stream, lambda: self._hurry_log(stream))
        for fd in [fd for fd, (of, _) in self._hung.items() if of is stream]:
            del self._hung[fd]
            self._end_output(stream, fd)

    def _say_abort(self, fds: list[int], container: str, exec_id: str) -> None:
        """The start failed, or never came: whoever waited for output gets its end."""
        for client in self._early.pop((container, exec_id), []):
            self._leave(None, client, "aborted")

    def _say_cancel(self, fds: list[int], ident: int) -> None:
        client, key = self._clients.get(ident, (None, ("", "")))
        if client is not None:
            self._leave(self._streams.get(key), client, "gone")

    # ---- output

    def _watch_output(self, stream: Stream, fd: int) -> None:
        if not stream.paused:
            self._watch(fd, select.EPOLLIN, lambda events: self._on_output(stream, fd))

    def _on_output(self, stream: Stream, fd: int) -> None:
        try:
            data = os.read(fd, READ_SIZE)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno == errno.EIO and stream.tty and not stream.exited:
                # Nobody has the terminal open at the moment; a getty would open it again.
                self._unwatch(fd)
                self._hung[fd] = (stream, time.monotonic() + HUNG_TERMINAL_S)
                return
            data = b""
        if not data:
            self._end_output(stream, fd)
            return
        self._distribute(stream, fd, data)

    def _distribute(self, stream: Stream, fd: int, data: bytes) -> None:
        number = stream.outputs[fd]
        log = stream.log
        if log is not None:
            log.feed(NAMES[number], data, time.time_ns())
            if log.full:
                self._pause(stream)
        for client in stream.clients[:]:
            if client.stdout if number == 1 else client.stderr:
                client.give(number, data)
                self._after_send(stream, client)

    def _after_send(self, stream: Stream, client: Client) -> None:
        if client.gone:
            self._leave(stream, client, "gone")
            return
        if client.backlog:
            self._set_client_events(stream, client)
        if client.backlog > BACKLOG_MAX:
            self._pause(stream)

    def _pause(self, stream: Stream) -> None:
        if not stream.paused:
            stream.paused = True
            for fd in stream.outputs:
                self._unwatch(fd)

    def _resume(self, stream: Stream) -> None:
        """Read on, unless a client or the log still has too much waiting."""
        if not stream.paused or (stream.log is not None and stream.log.full):
            return
        if all(client.backlog <= BACKLOG_MAX // 2 for client in stream.clients):
            stream.paused = False
            for fd in stream.outputs:
                if fd not in self._hung:
                    self._watch_output(stream, fd)

    def _drain_and_close(self, stream: Stream) -> None:
        """The process is gone and its grace is over: take what is there and let go."""
        stream.deadline = 0.0
        if stream.paused:
            stream.deadline = time.monotonic() + GRACE_S  # a slow client still holds us up: bytes are not dropped
            return
        for fd in list(stream.outputs):
            while not stream.paused:
                try:
                    data = os.read(fd, READ_SIZE)
                except OSError:
                    break
                if not data:
                    break
                self._distribute(stream, fd, data)
            if stream.paused:
                stream.deadline = time.monotonic() + GRACE_S
                return
            self._end_output(stream, fd)

    def _end_output(self, stream: Stream, fd: int) -> None:
        self._unwatch(fd)
        number = stream.outputs.pop(fd)
        if stream.log is not None:
            stream.log.finish(NAMES[number], time.time_ns())
        os.close(fd)
        if stream.outputs:
            return
        stream.ended, stream.deadline = True, 0.0
        if stream.log is not None:
            stream.log.leave(lambda: self._on_log_done(stream))
        self._close_stdin(stream)
        for client in stream.clients[:]:
            self._end_client(stream, client)
        self._retire(stream)

    def _end_client(self, stream: Stream, client: Client) -> None:
        # Closed, not shut down: an engine that holds the socket too ends the connection once the exit is in the log, so
        # that a client that asks for the exit code on end of file finds it.
        if not client.backlog:
            self._leave(stream, client, "eof")

    def _hurry_log(self, stream: Stream) -> None:
        """A log server that is away must not keep the last output, and with it a process's end, for ever."""
        if stream.log is not None:
            stream.log.hurry()
            self._resume(stream)

    def _on_log_done(self, stream: Stream) -> None:
        stream.log = None
        self._loop.forget(stream)
        self._retire(stream)

    def _retire(self, stream: Stream) -> None:
        if stream.ended and not stream.clients and stream.log is None and not stream.retired:
            stream.retired = True
            if self._streams.get(stream.key) is stream:
                del self._streams[stream.key]
            self._tell("drained", stream.key[0], stream.key[1], stream.run)

    # ---- clients and input

    def _watch_client(self, stream: Stream, client: Client) -> None:
        self._unwatch(client.fileno)
        self._watch(client.fileno, 0, lambda events: self._on_client(stream, client, events))
        self._set_client_events(stream, client)

    def _set_client_events(self, stream: Stream, client: Client) -> None:
        events = select.EPOLLOUT if client.backlog and client.listening else 0
        if client.backlog and not events:
            self._loop.after(LOOK_AGAIN_S, client, lambda: self._on_client(stream, client, select.EPOLLOUT))
        if client.stdin and not client.to_process and not stream.ended:
            events |= select.EPOLLIN
        self._loop.want(client.fileno, events)

    def _on_client(self, stream: Stream, client: Client, events: int) -> None:
        if events & select.EPOLLOUT:
            client.flush()
            if client.gone:
                self._leave(stream, client, "gone")
                return
            self._resume(stream)
            if stream.ended:
                self._end_client(stream, client)
                if client.gone or client.ident not in self._clients:
                    return
        left = bool(events & (select.EPOLLHUP | select.EPOLLERR))
        if client.stdin and not stream.ended and (left or events & select.EPOLLIN):
            self._on_input(stream, client, everything=left)
        if left and client.ident in self._clients:
            self._leave(stream, client, "gone")
        elif client.ident in self._clients:
            self._set_client_events(stream, client)

    def _on_input(self, stream: Stream, client: Client, *, everything: bool) -> None:
        while True:
            try:
                data = client.read()
            except BlockingIOError:
                return
            if data is None:
                self._on_input_end(stream, client)
                return
            detached = False
            if stream.tty:
                data, detached = client.filter_keys(data)
            self._pass_input(stream, client, data)
            if detached:
                self._leave(stream, client, "detached")
                return
            if not everything:
                return

    def _on_input_end(self, stream: Stream, client: Client) -> None:
        """As moby: the end of a client's input closes the process's stdin when it was opened for one client, and
        otherwise ends the attachment."""
        client.stdin = False
        if stream.once and not stream.tty:
            stream.stdin_closing = True
            self._flush_input(stream)
        else:
            self._leave(stream, client, "gone")

    def _pass_input(self, stream: Stream, client: Client, data: bytes) -> None:
        client.to_process += data
        if stream.stdin < 0:
            client.to_process.clear()
        elif client.to_process:
            self._flush_input(stream)

    def _flush_input(self, stream: Stream) -> None:
        if stream.stdin < 0:
            return
        for client in stream.clients:
            while client.to_process:
                try:
                    written = os.write(stream.stdin, memoryview(client.to_process)[:READ_SIZE])
                except BlockingIOError:
                    self._await_stdin(stream)
                    return
                except OSError:  # the process closed its stdin: its input goes nowhere from now on
                    self._close_stdin(stream)
                    return
                del client.to_process[:written]
        if stream.stdin_waits:
            stream.stdin_waits = False
            self._unwatch(stream.stdin)
        if stream.stdin_closing:
            self._close_stdin(stream)

    def _await_stdin(self, stream: Stream) -> None:
        if not stream.stdin_waits:
            stream.stdin_waits = True
            self._watch(stream.stdin, select.EPOLLOUT, lambda events: self._on_stdin_room(stream))

    def _on_stdin_room(self, stream: Stream) -> None:
        self._flush_input(stream)
        for client in stream.clients:
            self._set_client_events(stream, client)

    def _close_stdin(self, stream: Stream) -> None:
        if stream.stdin >= 0:
            self._unwatch(stream.stdin)
            os.close(stream.stdin)
            stream.stdin, stream.stdin_waits = -1, False
            for client in stream.clients:
                client.to_process.clear()
            self._tell("stdin_closed", stream.key[0], stream.key[1], stream.run)

    def _leave(self, stream: Stream | None, client: Client, reason: str) -> None:
        if self._clients.pop(client.ident, None) is None:
            return
        self._unwatch(client.fileno)
        self._loop.forget(client)
        had_stdin = client.stdin
        if stream is not None:
            if client.to_process and stream.stdin >= 0:
                self._keep_input(stream, client)
            stream.clients.remove(client)
            if had_stdin and stream.once and not stream.tty and reason != "detached":
                stream.stdin_closing = True
                self._flush_input(stream)
            self._resume(stream)
        else:
            for waiting in self._early.values():
                if client in waiting:
                    waiting.remove(client)
        client.close()
        self._tell("end", client.ident, reason)
        if stream is not None:
            self._retire(stream)

    def _keep_input(self, stream: Stream, client: Client) -> None:
        """Input of a client that left before the process took it all: hand it to whoever is still there, or try once
        more and wait in a small client without socket."""
        for other in stream.clients:
            if other is not client:
                other.to_process[:0] = client.to_process
                return
        Orphan(self, stream, bytes(client.to_process))


class Orphan:
    """The rest of a departed client's input, written when the process reads on; then its stdin may close."""

    def __init__(self, copier: Copier, stream: Stream, data: bytes) -> None:
        self._copier, self._stream, self._data = copier, stream, data
        self._fd = os.dup(stream.stdin)
        copier._watch(self._fd, select.EPOLLOUT, self._on_room)

    def _on_room(self, events: int) -> None:
        try:
            self._data = self._data[os.write(self._fd, self._data[:READ_SIZE]) :]
        except BlockingIOError:
            return
        except OSError:
            self._data = b""
        if not self._data or self._stream.ended:
            self._copier._unwatch(self._fd)
            os.close(self._fd)
