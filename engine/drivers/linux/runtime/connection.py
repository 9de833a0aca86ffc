"""The engine's end of the supervisor's socket: one request at a time on the wire, any number waiting for answers.

Owns: finding or starting the supervisor, matching answers to requests, handing pushes on. Refuses to know: verbs.
A lost connection fails the waiting requests with a retriable PortError and is made again by `keep`.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from importlib import resources as package_data
from typing import Any

import trio

from engine.drivers.linux.runtime.supervisor import kernel, wire
from engine.errors import Fault, PortError

_logger = logging.getLogger(__name__)

CONNECT_DEADLINE_S = 60.0
"""A supervisor starts in 50 ms; on an emulated or starved machine that can be a thousand times as long."""
AGAIN_S = 0.1
"""Between two starts of a supervisor, when the first was killed."""
KILLED = 2
"""The status of the command that starts a supervisor when that was killed before it could say anything."""
REQUEST_WAIT_S = 15.0
"""How long a request waits for a supervisor that is being replaced."""


class Refusal(Exception):  # noqa: N818 - what the supervisor said, for the driver to translate
    """The supervisor answered no. exit_code and errno as it knows them."""

    def __init__(self, message: str, number: int, exit_code: int) -> None:
        super().__init__(message)
        self.message, self.number, self.exit_code = message, number, exit_code


class _Waiting:
    def __init__(self) -> None:
        self.done = trio.Event()
        self.answer: tuple[bool, Any] | None = None


def lost(operation: str) -> PortError:
    return PortError(operation, "the supervisor is not reachable", fault=Fault.UNAVAILABLE, retriable=True)


class Connection:
    def __init__(self, exec_root: str, data_root: str) -> None:
        self._exec_root, self._data_root = exec_root, data_root
        self._sock: trio.socket.SocketType | None = None
        self._raw: socket.socket | None = None
        """The same one, for what does not wait."""
        self._sending = trio.Lock()
        self._waiting: dict[int, _Waiting] = {}
        self._sequence = 0
        self._up = trio.Event()

    @property
    def path(self) -> str:
        return self._exec_root + "/supervisor.sock"

    async def open(self) -> None:
        """Connect to the living supervisor, or start one. One that is killed while it starts is started again. Raises
        PortError when it can not start, or when nothing works in a minute."""
        with trio.move_on_after(CONNECT_DEADLINE_S):
            while True:
                raw = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                sock = trio.socket.from_stdlib_socket(raw)
                try:
                    await sock.connect(self.path)
                except OSError:
                    sock.close()
                    await self._start()
                    continue
                self._sock, self._raw = sock, raw
                self._up.set()
                return
        raise lost("connect")

    async def is_there(self) -> bool:
        """Whether a supervisor lives."""
        with trio.socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            try:
                await sock.connect(self.path)
            except OSError:
                return False
            return True

    async def _start(self) -> None:
        """The interpreter is bare (-S -E -I): a small process forks fast. It returns once a supervisor listens.

        It is run through a read-only mount of its file that lies nowhere. A container can come by its children's
        /proc/<pid>/exe (by being told to run /proc/self/exe), but can not write to it (CVE-2019-5736)."""
        script = str(package_data.files("engine.drivers.linux.runtime") / "supervisor" / "__main__.py")
        command = [sys.executable, "-S", "-E", "-I", script, self._exec_root, self._data_root]
        interpreter = kernel.open_tree(os.fsencode(sys.executable), recursive=False)
        try:
            kernel.set_mount_attributes(interpreter, b"", kernel.MOUNT_ATTR_RDONLY, recursive=False)
            done = await trio.run_process(
                command,
                executable=f"/proc/self/fd/{interpreter}",
                pass_fds=(interpreter,),
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                capture_stderr=True,
            )
        finally:
            os.close(interpreter)
        if done.returncode < 0 or done.returncode == KILLED:
            # By the kernel, for want of memory, or by an administrator.
            _logger.warning("the supervisor was killed while it started")
            await trio.sleep(AGAIN_S)
        elif done.returncode:
            raise PortError("start supervisor", done.stderr.decode(errors="replace").strip())

    async def receive(self, on_push: Callable[[str, Any], None]) -> None:
        """Read until the supervisor goes away; answers wake their requests, pushes go to `on_push`."""
        sock = self._sock
        assert sock is not None
        try:
            while True:
                data, messages, _, _ = await sock.recvmsg(
                    wire.INLINE_MAX + 4096, socket.CMSG_SPACE(wire.FDS_MAX * 4), socket.MSG_CMSG_CLOEXEC
                )
                if not data:
                    return
                (sequence, ok, value), _ = wire.unpack(data, messages)
                if sequence:
                    waiting = self._waiting.get(sequence)
                    if waiting is not None:
                        waiting.answer = (ok, value)
                        waiting.done.set()
                else:
                    on_push(*value)
        except OSError as error:
            if error.errno not in (errno.ECONNRESET, errno.EPIPE):
                raise
        finally:
            self._sock = None
            self._up = trio.Event()
            sock.close()
            for waiting in self._waiting.values():
                waiting.done.set()

    def tell(self, verb: str, **arguments: Any) -> None:
        """As `request`, for what may as well not be done: it waits for nothing, and hears no answer."""
        self._sequence += 1
        data, fds, memory = wire.pack((self._sequence, verb, arguments))
        try:
            if self._sock is not None and not self._sending.locked():
                self._sent_at_once(data, fds)
        except OSError:
            pass  # whoever reads from it meets that, too
        finally:
            if memory >= 0:
                os.close(memory)

    def _sent_at_once(self, data: bytes, fds: tuple[int, ...]) -> bool:
        """Nearly always there is room, and no other task needs to run first. Raises OSError when the supervisor is
        gone."""
        assert self._raw is not None
        try:
            self._raw.sendmsg([data], wire.ancillary(fds))
        except BlockingIOError:
            return False
        return True

    async def request(
        self, verb: str, fds: tuple[int, ...] = (), *, sent: Callable[[], object] = lambda: None, **arguments: Any
    ) -> Any:
        """sent: called when the supervisor has it; what it is asked later is done later. Raises Refusal for an answer
        of no, PortError (retriable) when the supervisor is lost meanwhile."""
        if self._sock is None:
            with trio.move_on_after(REQUEST_WAIT_S):
                await self._up.wait()
        sock = self._sock
        if sock is None:
            raise lost(verb)
        self._sequence += 1
        sequence, waiting = self._sequence, _Waiting()
        self._waiting[sequence] = waiting
        data, fds, memory = wire.pack((sequence, verb, arguments), fds)
        try:
            if self._sending.locked() or not self._sent_at_once(data, fds):
                async with self._sending:
                    await sock.sendmsg([data], wire.ancillary(fds))
            sent()
            await waiting.done.wait()
        except OSError as error:
            raise lost(verb) from error
        finally:
            del self._waiting[sequence]
            if memory >= 0:
                os.close(memory)
        if waiting.answer is None:
            raise lost(verb)
        ok, value = waiting.answer
        if not ok:
            raise Refusal(value["message"], value["errno"], value["exit_code"])
        return value
