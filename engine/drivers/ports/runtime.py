"""Port: running processes in containers, and the supervisor that keeps them while the engine is away.

A container is known by its id alone; the driver derives cgroup, bundle and socket names from it. Exits are facts that
the supervisor keeps (journalled) until `forget`: an engine that was away asks `list` and misses none.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Protocol

import msgspec

from engine.aggregates.values.log_subject import LogSubject


class RootFilesystem(msgspec.Struct, frozen=True, kw_only=True):
    """An overlay to mount as the container's root, in the container's own mount namespace; without lowers `upper` is
    the whole tree, and is bound.

    lowers: directories, topmost first. upper, work: the read-write layer. volatile: give up the layer's consistency
    on power loss (used only where the layer dies with the container)."""

    lowers: tuple[str, ...]
    upper: str
    work: str
    volatile: bool = False

    @property
    def image(self) -> tuple[str, ...]:
        """Where the image's files lie, before the container has written anything."""
        return self.lowers or (self.upper,)


class LogSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Where the output goes. path: the current file of a driver that writes one. cache_path: of the copy kept to read
    back what another driver sends away, or "". subject: whose output it is, and the driver's options."""

    driver: str
    path: str = ""
    cache_path: str = ""
    subject: LogSubject = LogSubject(config={}, container_id="", name="")


class Stdio(msgspec.Struct, frozen=True, kw_only=True):
    """tty: a pseudo-terminal of `height` x `width`. open_stdin: keep stdin open without a client. stdin_once: close it
    when the first attached client goes."""

    tty: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    height: int = 0
    width: int = 0


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """One start of a container.

    run: counts the starts of this container from 1; (id, run) is the idempotence key. spec: an OCI runtime spec
    (root.path is ignored by the native runtime, which mounts `rootfs` itself). runtime: `native`, or the path of an
    OCI runtime binary. netns_fd: a ready network namespace, or -1 when `spec` says host or names a path."""

    container_id: str
    run: int
    spec: Mapping[str, Any]
    rootfs: RootFilesystem
    stdio: Stdio
    log: LogSpec
    runtime: str = "native"
    netns_fd: int = -1


class ExecLaunch(msgspec.Struct, frozen=True, kw_only=True):
    """One exec. process: the `process` object of an OCI spec (args, env, cwd, user, capabilities, ...)."""

    exec_id: str
    container_id: str
    process: Mapping[str, Any]
    stdio: Stdio


class Exit(msgspec.Struct, frozen=True, kw_only=True):
    """A process ended. exec_id is "" for the container's first process. exit_code: 0-255, 128 + n for signal n.
    oom_killed: the container's cgroup counted an OOM kill during this run. lost: nobody saw it (exit_code is 255), and
    parts of the container may run on until it is forgotten."""

    container_id: str
    run: int
    exec_id: str = ""
    exit_code: int
    oom_killed: bool = False
    lost: bool = False
    finished_at_ns: int


class OutOfMemory(msgspec.Struct, frozen=True, kw_only=True):
    """The kernel had to kill in a container that was at its limit. count: how often in this run so far."""

    container_id: str
    run: int
    count: int


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """A live process the supervisor holds. pid is the host's number."""

    container_id: str
    run: int
    exec_id: str = ""
    pid: int
    paused: bool = False


class Inventory(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the supervisor knows: live processes, exits not yet forgotten, and resources found in the kernel under
    the driver's names (cgroups) whose container nobody runs."""

    running: tuple[Running, ...] = ()
    exits: tuple[Exit, ...] = ()
    orphans: tuple[str, ...] = ()


class Runtime(Protocol):
    """Starting and ending processes."""

    async def start(self, launch: Launch) -> int:
        """Start the container's first process; its pid. Returns once exec succeeded. Raises PortError with exit_code
        126, 127 or 128 when it did not, having undone everything."""
        ...

    async def execute(self, launch: ExecLaunch) -> int:
        """Start a further process in a running container; its pid. Errors as `start`."""
        ...

    def approach(self, container_id: str, exec_id: str) -> None:
        """Somebody will soon attach to this exec and ask for it: what runs nothing of the user's and changes nothing
        may be done ahead. No promise and no error; what is not asked for in a second is undone."""
        ...

    def expect(self, launch: ExecLaunch) -> None:
        """As `approach`, when it is known what `execute` will be asked for. It may be asked for something else, or not
        at all."""
        ...

    async def signal(self, container_id: str, signal_number: int, *, exec_id: str = "") -> None:
        """Send a signal to the first process (or the exec's). No error when it is gone already."""
        ...

    async def freeze(self, container_id: str) -> None: ...

    async def thaw(self, container_id: str) -> None: ...

    async def update(self, container_id: str, resources: Mapping[str, Any]) -> None:
        """Apply `linux.resources` of an OCI spec to the live cgroup."""
        ...

    async def list(self) -> Inventory: ...

    async def forget(self, container_id: str, run: int, *, exec_id: str = "") -> None:
        """The exit is in the log: drop it from the journal, and the cgroup with it. An exec that will not run is
        forgotten, too: streams attached ahead of it end as aborted. Idempotent."""
        ...

    def exits(self) -> AsyncIterator[Exit]:
        """Exits as they happen, from the first one not forgotten. At-least-once."""
        ...

    def ooms(self) -> AsyncIterator[OutOfMemory]:
        """Shortages of memory as they happen, the newest count of each run. At-least-once; of a run that has ended its
        exit tells."""
        ...


class StreamEnd(msgspec.Struct, frozen=True, kw_only=True):
    """Why an attached client went: `eof` (the process's output ended), `aborted` (there was no process: its start
    failed), `gone` (the client left), `detached` (keys)."""

    reason: str


class Streams(Protocol):
    """The stdio of processes: the copier holds it, clients are handed to it."""

    async def attach(
        self,
        container_id: str,
        client_fd: int,
        *,
        exec_id: str = "",
        stdin: bool,
        stdout: bool,
        stderr: bool,
        multiplexed: bool,
        detach_keys: bytes = b"",
        early_input: bytes = b"",
        registered: Callable[[], object] = lambda: None,
    ) -> StreamEnd:
        """Give the client's socket to the copier and wait until it is done with it. May be called before `start`.

        The fd is duplicated; the caller closes its own. multiplexed: 8-byte frames (no tty), else raw bytes. Output
        written before the attach is not repeated. A slow client slows the process once 1 MiB waits for it, as moby's.
        registered: called once nothing can overtake the request; a start asked for after that is seen from its first
        byte."""
        ...

    async def resize(self, container_id: str, height: int, width: int, *, exec_id: str = "") -> None: ...

    async def drained(self, container_id: str, run: int) -> None:
        """Wait until all output of an ended process is written to its log and its clients."""
        ...


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One reading of a container's cgroup. cpu in ns, memory in bytes; blkio as (major, minor, op, value). blkio_ios is
    None where operations are not told (v2). pids_limit: 0 for none on v1, 2^64 - 1 on v2, as Docker tells them."""

    read_at_ns: int
    cpu_total_ns: int
    cpu_user_ns: int
    cpu_system_ns: int
    cpu_percpu_ns: tuple[int, ...] = ()
    throttling: Mapping[str, int] = {}
    memory_usage: int
    memory_max_usage: int = 0
    memory_limit: int
    memory_failcnt: int = 0
    memory_stats: Mapping[str, int] = {}
    pids_current: int = 0
    pids_limit: int = 0
    blkio_bytes: tuple[tuple[int, int, str, int], ...] = ()
    blkio_ios: tuple[tuple[int, int, str, int], ...] | None = None
    networks: Mapping[str, Mapping[str, int]] = {}


class Meter(Protocol):
    """Reading, never changing."""

    async def samples(self, pids: Mapping[str, int], *, again: bool = False) -> Mapping[str, Sample]:
        """What each of the containers uses; pids: of their first processes, by id, 0 for one whose network is not its
        own. A container that does not run is left out. again: just these will be asked for again soon; the driver may
        keep for them what makes that cheap, and drops what it kept for others."""
        ...

    async def processes(self, container_id: str) -> tuple[int, ...]:
        """Host pids in the container's cgroup, sorted."""
        ...
