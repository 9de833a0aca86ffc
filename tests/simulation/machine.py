"""A machine in memory: the kernel, the supervisor and the disk that an engine acts on. It outlives engines.

Owns: processes with their ends, network namespaces with what is in them, bridges, published ports, cgroups, read-write
layers, folders, volumes, and the supervisor's journal of exits. Every change is one step, which no death can cut.
What no machine would let happen (two first processes of one container, one address twice on one bridge) is noted at
once as a `violation`. Refuses to know: engines, ports, what a log says.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import trio

from engine.aggregates.values.endpoints import PublishedPort
from engine.drivers.ports.network import NetworkSpec
from engine.drivers.ports.runtime import Exit

Key = tuple[str, int, str]
"""Container, run, exec ("" for the first process)."""
SIGKILL = 9


@dataclass(frozen=True)
class Behaviour:
    """How a process lives. after_s: it ends by itself, None for never. code: then. on_term: the exit code SIGTERM leads
    to, None when it is ignored; after `linger_s`."""

    after_s: float | None = None
    code: int = 0
    on_term: int | None = 143
    linger_s: float = 0.0

    @property
    def words(self) -> list[str]:
        after = "" if self.after_s is None else str(self.after_s)
        term = "" if self.on_term is None else str(self.on_term)
        return ["act", after, str(self.code), term, str(self.linger_s)]

    @classmethod
    def of(cls, words: list[str]) -> Behaviour:
        if len(words) != 5 or words[0] != "act":
            return cls(after_s=0.01)
        return cls(
            after_s=float(words[1]) if words[1] else None,
            code=int(words[2]),
            on_term=int(words[3]) if words[3] else None,
            linger_s=float(words[4]),
        )


class Namespace:
    """A network namespace: it lives while somebody has a descriptor of it or a process in it."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        self.members = 0
        self.endpoints: dict[str, tuple[str, str]] = {}
        """Endpoint id -> (bridge, address)."""
        self.interfaces: dict[str, str] = {}
        """Interface -> endpoint id."""

    def descriptor(self) -> int:
        """One for the engine, which closes it."""
        return os.dup(self._writer)

    def opened(self) -> None:
        """The machine's own descriptor goes: from here on only others keep it."""
        os.close(self._writer)
        self._writer = -1

    def enter(self) -> int:
        """A descriptor for somebody who found it by a process."""
        if self._writer < 0:
            self._writer = os.open(f"/proc/self/fd/{self._reader}", os.O_WRONLY)
        given = os.dup(self._writer)
        self.opened()
        return given

    @property
    def alive(self) -> bool:
        if self.members or self._writer >= 0:
            return True
        poll = select.poll()
        poll.register(self._reader, select.POLLIN)
        return not any(event & select.POLLHUP for _, event in poll.poll(0))

    def close(self) -> None:
        for fd in (self._reader, self._writer):
            if fd >= 0:
                os.close(fd)


@dataclass
class Process:
    pid: int
    key: Key
    behaviour: Behaviour
    namespace: Namespace | None
    group: str
    held: bool = True
    """By the supervisor: its exit will be known."""
    frozen: bool = False
    pending: int = 0
    signals: list[int] = field(default_factory=list)
    ending: trio.Event = field(default_factory=trio.Event)
    code: int | None = None


@dataclass(frozen=True)
class Ended:
    """The truth about an end. known: the supervisor saw it."""

    key: Key
    code: int
    known: bool


class Machine:
    def __init__(self, random: Random, nursery: trio.Nursery, now_ns: Callable[[], int]) -> None:
        self._nursery = nursery
        self._now_ns = now_ns
        self.frozen_can_die = random.random() < 0.5
        """As with cgroup version 2."""
        self._pids = 100
        self.generation = 0
        """Of the supervisor."""
        self.processes: dict[int, Process] = {}
        self.journal: dict[Key, Exit] = {}
        self.ooms: dict[tuple[str, int], int] = {}
        """(Container, run) -> how often the kernel killed in it for memory."""
        self.short_of_memory = trio.Event()
        self.cgroups: set[str] = set()
        self.namespaces: list[Namespace] = []
        self.bridges: dict[str, NetworkSpec] = {}
        self.published: dict[PublishedPort, str] = {}
        """Published port -> endpoint id."""
        self.rootfs: set[str] = set()
        self.folders: dict[str, dict[str, str]] = {}
        self.volumes: dict[str, bool] = {}
        """Name -> mounted."""
        self.blobs: dict[str, bytes] = {}
        self.begun: list[Key] = []
        self.ended: list[Ended] = []
        self.violations: list[str] = []
        self.listeners: list[Callable[[Exit], None]] = []
        self.lost: list[Callable[[], None]] = []

    # -- processes -----------------------------------------------------------------------------------------------------

    def find(self, container_id: str, exec_id: str = "", *, held: bool = True) -> Process | None:
        for process in self.processes.values():
            if process.key[0] == container_id and process.key[2] == exec_id and process.held == held:
                return process
        return None

    def spawn(self, key: Key, behaviour: Behaviour, namespace: Namespace | None) -> Process:
        if not key[2]:
            others = [p for p in self.processes.values() if p.key[0] == key[0]]
            if others:
                self.violations.append(f"run {key[1]} of {key[0][:12]} began beside {[p.key[1:] for p in others]}")
            if any(ended.key == key and ended.known for ended in self.ended):
                self.violations.append(f"run {key[1]} of {key[0][:12]} began twice")
            self.cgroups.add(key[0])
        self.begun.append(key)
        self._pids += 1
        process = Process(self._pids, key, behaviour, namespace, key[0])
        if namespace is not None:
            namespace.members += 1
        self.processes[process.pid] = process
        self._nursery.start_soon(self._live, process, name=f"process {process.pid}")
        return process

    async def _live(self, process: Process) -> None:
        """Until it is ended by somebody, or by itself."""
        behaviour = process.behaviour
        with trio.move_on_after(float("inf") if behaviour.after_s is None else behaviour.after_s):
            await process.ending.wait()
        while process.frozen and process.pid in self.processes:
            await trio.sleep(0.05)
        if process.pid in self.processes and process.code is None:
            self.end(process, behaviour.code)

    def signal(self, process: Process, number: int) -> None:
        if process.frozen and not (number == SIGKILL and self.frozen_can_die):
            process.pending = process.pending if process.pending == SIGKILL else number
            return
        process.signals.append(number)
        if number == SIGKILL:
            self.end(process, 128 + SIGKILL)
        elif number == 15 and process.behaviour.on_term is not None:
            self._nursery.start_soon(self._linger, process, name=f"end of {process.pid}")

    async def _linger(self, process: Process) -> None:
        await trio.sleep(process.behaviour.linger_s)
        while process.frozen and process.pid in self.processes:
            await trio.sleep(0.05)
        if process.pid in self.processes:
            self.end(process, process.behaviour.on_term or 0)

    def end(self, process: Process, code: int) -> None:
        """A process ends; with the first one of a container all others of its pid namespace."""
        del self.processes[process.pid]
        process.code = code
        process.ending.set()
        if process.namespace is not None:
            process.namespace.members -= 1
        self.ended.append(Ended(process.key, code, process.held))
        if process.held:
            self._journal(process.key, code)
        if not process.key[2]:
            for other in [p for p in self.processes.values() if p.group == process.group]:
                self.end(other, 128 + SIGKILL)

    def run_out_of_memory(self, process: Process) -> None:
        """Something in its container is killed; itself, when it is the last."""
        key = process.key[0], process.key[1]
        self.ooms[key] = self.ooms.get(key, 0) + 1
        self.short_of_memory.set()
        self.short_of_memory = trio.Event()
        others = [p for p in self.processes.values() if p.group == process.group and p.key[2]]
        self.end(others[0] if others else process, 128 + SIGKILL)

    def _journal(self, key: Key, code: int) -> None:
        exited = Exit(
            container_id=key[0], run=key[1], exec_id=key[2], exit_code=code, finished_at_ns=self._now_ns(),
            oom_killed=not key[2] and key[:2] in self.ooms,
        )  # fmt: skip
        self.journal[key] = exited
        for told in list(self.listeners):
            told(exited)

    def freeze(self, container_id: str, *, frozen: bool) -> bool:
        """Whether there was anything to freeze or thaw."""
        members = [p for p in self.processes.values() if p.group == container_id]
        for process in members:
            process.frozen = frozen
            if not frozen and process.pending and process.pid in self.processes:
                pending, process.pending = process.pending, 0
                self.signal(process, pending)
        return bool(members)

    def forget(self, key: Key) -> None:
        """The journal's entry goes, and with it what is left in the cgroup of a container that is not held."""
        self.journal.pop(key, None)
        if not key[2] and self.find(key[0]) is None:
            for process in [p for p in self.processes.values() if p.group == key[0]]:
                if process.pid in self.processes:
                    self.end(process, 128 + SIGKILL)
            self.cgroups.discard(key[0])

    def lose_supervisor(self) -> None:
        """It dies; its processes run on, held by nobody; another one is there at once."""
        self.generation += 1
        for process in self.processes.values():
            process.held = False
        for told in list(self.lost):
            told()

    def reboot(self) -> None:
        """Only what is on disk stays."""
        self.generation += 1
        for process in list(self.processes.values()):
            process.held = False
            if process.pid in self.processes:
                self.end(process, 255)
        self.cgroups.clear()
        self.bridges.clear()
        self.published.clear()
        self.volumes = dict.fromkeys(self.volumes, False)

    # -- network -------------------------------------------------------------------------------------------------------

    def unshare(self) -> Namespace:
        namespace = Namespace()
        self.namespaces.append(namespace)
        return namespace

    def living_namespaces(self) -> list[Namespace]:
        for namespace in [n for n in self.namespaces if not n.alive]:
            namespace.close()
            self.namespaces.remove(namespace)
        return self.namespaces

    def connect(self, namespace: Namespace, interface: str, endpoint_id: str, bridge: str, address: str) -> None:
        """A veth between a bridge and a namespace."""
        for other in self.living_namespaces():
            for held, (where, taken) in other.endpoints.items():
                if where == bridge and taken == address and held != endpoint_id:
                    self.violations.append(f"{address} is twice on bridge {bridge}: {held[:7]} and {endpoint_id[:7]}")
        namespace.endpoints[endpoint_id] = (bridge, address)
        namespace.interfaces[interface] = endpoint_id

    def disconnect(self, endpoint_id: str) -> None:
        for namespace in self.living_namespaces():
            namespace.endpoints.pop(endpoint_id, None)
            namespace.interfaces = {n: e for n, e in namespace.interfaces.items() if e != endpoint_id}

    def veths(self) -> dict[str, Namespace]:
        """Endpoint id -> where it is."""
        return {endpoint: n for n in self.living_namespaces() for endpoint in n.endpoints}

    def publish(self, port: PublishedPort, endpoint_id: str) -> None:
        for other, owner in self.published.items():
            family = (":" in other.host_ip) == (":" in port.host_ip)
            if family and (other.host_port, other.protocol) == (port.host_port, port.protocol) and owner != endpoint_id:
                self.violations.append(f"port {port.host_port} of {endpoint_id[:7]} is {owner[:7]}'s already")
        self.published[port] = endpoint_id

    def close(self) -> None:
        for namespace in self.namespaces:
            namespace.close()
