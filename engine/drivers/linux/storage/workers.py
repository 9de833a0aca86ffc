"""Starting worker processes and listening to them.

Owns the engine's side of worker.py's protocol. A worker that is no longer wanted (cancellation, an error of the
caller) is killed and reaped before control returns.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import trio

import engine
from engine.aggregates.values.id_map import IdMap
from engine.errors import Fault, PortError

_BOOT = (
    "import sys; sys.path[:0] = sys.argv[1].split(':'); from engine.drivers.linux.storage.worker import main; main()"
)
_LINE_BYTES_MAX = 64 << 20


class Worker:
    """A running worker. `report` lines are collected by `outcome`."""

    def __init__(self, operation: str, process: trio.Process) -> None:
        self._operation = operation
        self.process = process
        self._unread = b""

    async def outcome(self, on_progress: Callable[[int], None] | None = None) -> Any:
        """Wait for the worker's end: its result. Raises the PortError it reported."""
        noise: list[str] = []
        result: Any = None
        done = False
        while (message := await self._message(noise)) is not None:
            if "progress" in message and on_progress is not None:
                on_progress(message["progress"])
            elif "error" in message:
                await self.process.wait()
                raise self._port_error(message["error"])
            elif "result" in message:
                result, done = message["result"], True
        status = await self.process.wait()
        if not done:
            words = " ".join(noise)[-2000:] or f"worker ended with {status}"
            raise PortError(self._operation, f"{self._operation}: {words}")
        return result

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


class Workers:
    """Starts workers: at most `parallel` heavy ones at once, others by the caller's own limits."""

    def __init__(self, parallel: int = 2) -> None:
        self.limiter = trio.CapacityLimiter(parallel)

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

    @asynccontextmanager
    async def start(self, task: str, fields: Mapping[str, Any], *, stdin: int, stdout: int) -> AsyncIterator[Worker]:
        """A worker for the length of the block; killed and reaped at its end if it still runs."""
        argv = [sys.executable, "-I", "-S", "-c", _BOOT, _import_path(), task, json.dumps(fields)]
        process = await trio.lowlevel.open_process(
            argv, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, cwd="/", env={"LC_ALL": "C.UTF-8"}
        )
        try:
            yield Worker(task, process)
        finally:
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
