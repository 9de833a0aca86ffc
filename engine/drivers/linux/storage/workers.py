"""Starting worker processes and listening to them.

Owns the engine's side of worker.py's protocol. A worker that is no longer wanted (cancellation, an error of the
caller) is killed and reaped before control returns. Those that unpack stay for a few seconds: an interpreter with its
imports costs as much as a small layer, and an image has many.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, cast

import trio

import engine
from engine.aggregates.values.id_map import IdMap
from engine.drivers.linux.storage.worker import TASK_BYTES_MAX
from engine.errors import Fault, PortError

_BOOT = (
    "import sys; sys.path[:0] = sys.argv[1].split(':'); from engine.drivers.linux.storage.worker import main; main()"
)
_LINE_BYTES_MAX = 64 << 20
_PIPE_BYTES = 1 << 20
_IDLE_S = 4.0


class Worker:
    """A running worker. `report` lines are collected by `outcome`."""

    def __init__(self, operation: str, process: trio.Process) -> None:
        self._operation = operation
        self.process = process
        self._unread = b""

    async def outcome(
        self, on_progress: Callable[[int], None] | None = None, on_found: Callable[[dict[str, Any]], None] | None = None
    ) -> Any:
        """Wait for the worker's end: its result. Raises the PortError it reported."""
        result = await self.result(on_progress, on_found)
        await self.process.wait()
        return result

    async def result(
        self, on_progress: Callable[[int], None] | None = None, on_found: Callable[[dict[str, Any]], None] | None = None
    ) -> Any:
        """Wait for the task's end: its result. Raises the PortError that was reported, and then the worker has ended,
        too."""
        noise: list[str] = []
        while (message := await self._message(noise)) is not None:
            if "progress" in message and on_progress is not None:
                on_progress(message["progress"])
            elif "found" in message and on_found is not None:
                on_found(message["found"])
            elif "error" in message:
                await self.process.wait()
                raise self._port_error(message["error"])
            elif "result" in message:
                return message["result"]
        status = await self.process.wait()
        words = " ".join(noise)[-2000:] or f"worker ended with {status}"
        raise PortError(self._operation, f"{self._operation}: {words}")

    async def ready(self) -> Any:
        """Wait for the worker's {"ready": ...}. Raises the PortError it reported instead."""
        noise: list[str] = []
        while (message := await self._message(noise)) is not None:
            if "ready" in message:
                return message["ready"]
            if "error" in message:
                raise self._port_error(message["error"])
        raise PortError(self._operation, f"{self._operation}: {' '.join(noise)[-2000:]}")

    async def feed(self, source: AsyncIterator[bytes]) -> None:
        """Send everything to the worker's stdin and close it. A worker that ended early has said why: `outcome` raises
        it."""
        stdin = self.process.stdin
        assert stdin is not None
        with suppress(OSError):  # beyond the user's share of pipes: it works without, in smaller steps.
            fcntl.fcntl(cast(trio.lowlevel.FdStream, stdin).fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        async with stdin:
            with suppress(trio.BrokenResourceError):
                async for chunk in source:
                    await stdin.send_all(chunk)

    async def _message(self, noise: list[str]) -> dict[str, Any] | None:
        """The next JSON line; None at the end. Anything else goes to `noise`."""
        stderr = self.process.stderr
        assert stderr is not None
        while True:
            line, newline, rest = self._unread.partition(b"\n")
            if newline:
                self._unread = rest
                if line.startswith(b"{"):
                    return dict(json.loads(line))
                noise.append(line.decode(errors="replace"))
                continue
            more = await stderr.receive_some(1 << 16)
            if not more:
                return None
            self._unread += more
            if len(self._unread) > _LINE_BYTES_MAX:
                raise PortError(self._operation, f"{self._operation}: the worker talks too much")

    def _port_error(self, error: Mapping[str, Any]) -> PortError:
        return PortError(self._operation, error["message"], fault=Fault(error["fault"]), errno=error["errno"])


class _Steady:
    """A worker that stays for further tasks."""

    def __init__(self, operation: str, process: trio.Process, packets: socket.socket) -> None:
        self.worker = Worker(operation, process)
        self._packets = packets
        self.idle_since = 0.0

    @property
    def alive(self) -> bool:
        return self.worker.process.poll() is None

    async def do(
        self, task: str, fields: Mapping[str, Any], data: int, on_progress: Callable[[int], None] | None
    ) -> Any:
        packet = json.dumps([task, fields]).encode()
        assert len(packet) <= TASK_BYTES_MAX, "a task is a few paths"
        with suppress(BrokenPipeError, ConnectionResetError):  # it has just ended: `result` says how.
            socket.send_fds(self._packets, [packet], [data])
        return await self.worker.result(on_progress)

    async def end(self) -> None:
        self._packets.close()
        await _ended(self.worker.process)


class Workers:
    """Starts workers: at most `parallel` heavy ones at once, others by the caller's own limits."""

    def __init__(self, parallel: int = 2) -> None:
        self.limiter = trio.CapacityLimiter(parallel)
        self.walking = trio.CapacityLimiter(1)
        """Of trees that are measured: the disk has other users."""
        self._idle: list[_Steady] = []
        self._at_work = 0

    @property
    def at_work(self) -> bool:
        """Whether any task runs."""
        return self._at_work > 0

    async def run(
        self,
        task: str,
        fields: Mapping[str, Any],
        *,
        stdin: int = subprocess.DEVNULL,
        on_progress: Callable[[int], None] | None = None,
    ) -> Any:
        """Run one task to its end: its result. stdin: an fd, or nothing. Raises PortError."""
        async with self.start(task, fields, stdin=stdin, stdout=subprocess.DEVNULL) as worker:
            return await worker.outcome(on_progress)

    async def run_next(
        self, task: str, fields: Mapping[str, Any], *, data: int, on_progress: Callable[[int], None] | None = None
    ) -> Any:
        """As `run`, by a worker that has stayed from an earlier task if there is one; it stays for the next, too. For
        tasks that leave nothing behind in their process. data: an fd, its stdin."""
        with self._working():
            steady = await self._from_idle() or await self._start_steady(task)
            try:
                result = await steady.do(task, fields, data, on_progress)
            except BaseException:
                await steady.end()
                raise
        steady.idle_since = trio.current_time()
        self._idle.append(steady)
        return result

    async def retire(self, idle_s: float = _IDLE_S) -> None:
        """End the workers that have stayed for so long in vain."""
        now = trio.current_time()
        late = [steady for steady in self._idle if now - steady.idle_since >= idle_s]
        self._idle = [steady for steady in self._idle if steady not in late]
        for steady in late:
            await steady.end()

    @asynccontextmanager
    async def start(
        self, task: str, fields: Mapping[str, Any], *, stdin: int, stdout: int, lent: int | None = None
    ) -> AsyncIterator[Worker]:
        """A worker for the length of the block; killed and reaped at its end if it still runs. lent: an fd that it has
        by the same number."""
        with self._working():
            process = await _open(
                task, fields, stdin=stdin, stdout=stdout, pass_fds=() if lent is None else (lent,)
            )
            try:
                yield Worker(task, process)
            finally:
                await _ended(process)

    @contextmanager
    def _working(self) -> Iterator[None]:
        self._at_work += 1
        try:
            yield
        finally:
            self._at_work -= 1

    async def _from_idle(self) -> _Steady | None:
        while self._idle:
            steady = self._idle.pop()
            if steady.alive:
                return steady
            await steady.end()
        return None

    async def _start_steady(self, operation: str) -> _Steady:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            process = await _open(
                "serve", {"control": theirs.fileno()}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
            )  # fmt: skip
        return _Steady(operation, process, ours)


async def _open(task: str, fields: Mapping[str, Any], **options: Any) -> trio.Process:
    argv = [sys.executable, "-I", "-S", "-c", _BOOT, _import_path(), task, json.dumps(fields)]
    return await trio.lowlevel.open_process(argv, stderr=subprocess.PIPE, cwd="/", env={"LC_ALL": "C.UTF-8"}, **options)


async def _ended(process: trio.Process) -> None:
    """Kill a worker that still runs, reap it, close its pipes."""
    if process.returncode is None:
        process.kill()
    with trio.CancelScope(shield=True):
        await process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                await pipe.aclose()


def _import_path() -> str:
    """Where the worker finds the engine and the decompressors: the engine's own places."""
    home = os.path.dirname(os.path.dirname(os.path.abspath(engine.__file__)))
    return ":".join([home, *(entry for entry in sys.path if entry and os.path.isdir(entry))])


def id_map_fields(id_map: IdMap | None) -> dict[str, list[tuple[int, int, int]]] | None:
    """A map of ids as tasks take it."""
    if id_map is None:
        return None
    return {
        "uids": [(each.inside, each.outside, each.size) for each in id_map.uids],
        "gids": [(each.inside, each.outside, each.size) for each in id_map.gids],
    }
