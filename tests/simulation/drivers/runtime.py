"""Runtime, Streams and Meter over the simulated machine's supervisor, as LinuxRuntime is over the real one.

A supervisor that is lost fails what is under way (retriable: whether it happened, nobody knows), and what it held is
reported as lost.
"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, TypeVar

import trio

from engine.drivers.ports.runtime import ExecLaunch, Exit, Inventory, Launch, OutOfMemory, Running, Sample, StreamEnd
from engine.errors import Fault, PortError
from tests.simulation.faults import Faults, Gate
from tests.simulation.machine import Behaviour, Key, Machine, Namespace, Process

T = TypeVar("T")
PREFIX = "failed to create task for container: failed to create shim task: OCI runtime create failed: "

EXEC_PREFIX = "OCI runtime exec failed: exec failed: unable to start container process: "


class SimulatedRuntime:
    def __init__(self, machine: Machine, gate: Gate, faults: Faults) -> None:
        self._machine = machine
        self._gate = gate
        self._faults = faults
        self._exits: dict[Key, Exit] = {}
        self._held: dict[Key, int] = {}
        self._changed = trio.Event()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold the connection, for ever."""
        machine = self._machine
        self._exits = dict(machine.journal)
        self._held = {p.key: p.pid for p in machine.processes.values() if p.held}
        machine.listeners.append(self._add)
        machine.lost.append(self._on_lost)
        try:
            task_status.started()
            await trio.sleep_forever()
        finally:
            machine.listeners.remove(self._add)
            machine.lost.remove(self._on_lost)

    def _add(self, exited: Exit) -> None:
        key = (exited.container_id, exited.run, exited.exec_id)
        self._held.pop(key, None)
        if key not in self._exits:
            self._exits[key] = exited
            self._changed.set()
            self._changed = trio.Event()

    def _on_lost(self) -> None:
        """What the engine knew to be held, and the journal has no exit of."""
        for key in list(self._held):
            now = self._machine._now_ns()
            container_id, run, exec_id = key
            self._add(
                Exit(container_id=container_id, run=run, exec_id=exec_id, exit_code=255, lost=True, finished_at_ns=now)
            )

    async def _ask(self, verb: str, effect: Callable[[], T], *, may_lie: bool = False, may_fail: bool = True) -> T:
        generation = self._machine.generation

        def once() -> T:
            if self._machine.generation != generation:
                raise self._lost(verb)
            return effect()

        done = await self._faults.perform(self._gate, verb, once, may_lie=may_lie, may_fail=may_fail)
        if self._machine.generation != generation:
            raise self._lost(verb)
        return done

    @staticmethod
    def _lost(verb: str) -> PortError:
        return PortError(verb, "the supervisor is not reachable", fault=Fault.UNAVAILABLE, retriable=True)

    # -- Runtime -------------------------------------------------------------------------------------------------------

    async def start(self, launch: Launch) -> int:
        key = (launch.container_id, launch.run, "")

        def begin() -> int:
            running = self._machine.find(launch.container_id)
            if running is not None and running.key == key:
                return running.pid
            if running is not None:
                words = f"run {launch.run} of {launch.container_id[:12]} was asked for beside run {running.key[1]}"
                self._machine.violations.append(words)  # the kernel's driver refuses it; an engine should not ask
                raise PortError("start", f"{PREFIX}container {launch.container_id} runs already", errno=17)
            namespace = self._namespace(launch)
            arguments = list(launch.spec["process"]["args"])
            if arguments[:1] == ["nosuchcmd"]:
                words = 'exec: "nosuchcmd": executable file not found in $PATH'
                raise PortError("start", PREFIX + words, fault=Fault.INVALID, exit_code=127)
            if launch.container_id not in self._machine.rootfs:
                self._machine.violations.append(f"{launch.container_id[:12]} starts without a read-write layer")
            process = self._machine.spawn(key, Behaviour.of(arguments), namespace)
            self._held[key] = process.pid
            return process.pid

        return await self._ask("start", begin)

    def _namespace(self, launch: Launch) -> Namespace | None:
        if launch.netns_fd >= 0:
            return self._machine_namespace(launch.netns_fd)
        for each in launch.spec["linux"]["namespaces"]:
            if each["type"] == "network" and (found := re.fullmatch(r"/proc/(\d+)/ns/net", each.get("path", ""))):
                donor = self._machine.processes.get(int(found[1]))
                if donor is None:
                    raise PortError("start", PREFIX + "no such process", exit_code=128)
                return donor.namespace
        return None

    def _machine_namespace(self, fd: int) -> Namespace:
        return namespace_of(self._machine, fd)

    async def execute(self, launch: ExecLaunch) -> int:
        def begin() -> int:
            first = self._machine.find(launch.container_id)
            if first is None:
                words = f"{EXEC_PREFIX}container {launch.container_id} is not running"
                raise PortError("execute", words, exit_code=128)
            arguments = list(launch.process["args"])
            if arguments[:1] == ["nosuchcmd"]:
                words = EXEC_PREFIX + 'exec: "nosuchcmd": executable file not found in $PATH'
                raise PortError("execute", words, fault=Fault.INVALID, exit_code=127)
            key = (launch.container_id, first.key[1], launch.exec_id)
            process = self._machine.spawn(key, Behaviour.of(arguments), None)
            self._held[key] = process.pid
            return process.pid

        return await self._ask("execute", begin)

    def approach(self, container_id: str, exec_id: str) -> None:
        """Whatever is done ahead shows nowhere."""

    def expect(self, launch: ExecLaunch) -> None:
        """Whatever is done ahead shows nowhere."""

    async def signal(self, container_id: str, signal_number: int, *, exec_id: str = "") -> None:
        def send() -> None:
            process = self._machine.find(container_id, exec_id)
            if process is not None:
                self._machine.signal(process, signal_number)

        await self._ask("signal", send, may_lie=True)

    async def freeze(self, container_id: str) -> None:
        await self._turn(container_id, frozen=True)

    async def thaw(self, container_id: str) -> None:
        await self._turn(container_id, frozen=False)

    async def _turn(self, container_id: str, *, frozen: bool) -> None:
        """The freezer is the kernel's: no supervisor takes part."""

        def turn() -> None:
            if not self._machine.freeze(container_id, frozen=frozen):
                raise PortError("freeze", f"container {container_id} is not running", fault=Fault.CONFLICT)

        await self._faults.perform(self._gate, "freeze" if frozen else "thaw", turn)

    async def update(self, container_id: str, resources: Mapping[str, Any]) -> None:
        def write() -> None:
            if container_id not in self._machine.cgroups:
                raise PortError("update", f"container {container_id} is not running", fault=Fault.CONFLICT)

        await self._faults.perform(self._gate, "update", write)

    async def list(self) -> Inventory:
        def look() -> Inventory:
            running = tuple(_running(p) for p in self._machine.processes.values() if p.held)
            exits = tuple(self._machine.journal.values())
            known = {each.container_id for each in (*running, *exits)}
            return Inventory(running=running, exits=exits, orphans=tuple(sorted(self._machine.cgroups - known)))

        return await self._ask("list", look)

    async def forget(self, container_id: str, run: int, *, exec_id: str = "") -> None:
        key = (container_id, run, exec_id)

        def drop() -> None:
            self._exits.pop(key, None)
            self._machine.forget(key)

        await self._ask("forget", drop, may_lie=True)

    async def exits(self) -> AsyncIterator[Exit]:
        seen: set[Key] = set()
        while True:
            changed = self._changed
            for key, exited in list(self._exits.items()):
                if key not in seen:
                    seen.add(key)
                    yield exited
            seen.intersection_update(self._exits)
            await changed.wait()

    async def ooms(self) -> AsyncIterator[OutOfMemory]:
        while True:
            changed = self._machine.short_of_memory
            for container_id, run, exec_id in list(self._held):
                count = self._machine.ooms.get((container_id, run), 0)
                if count and not exec_id:
                    yield OutOfMemory(container_id=container_id, run=run, count=count)
            await changed.wait()

    def let_go(self) -> None:
        """Nobody is attached."""

    # -- Streams -------------------------------------------------------------------------------------------------------

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
        """A process says one word when it ends."""
        registered()
        mine = os.dup(client_fd)
        before = len(self._machine.begun)
        try:
            while (process := self._machine.find(container_id, exec_id)) is None:
                if any((key[0], key[2]) == (container_id, exec_id) for key in self._machine.begun[before:]):
                    break  # It has ended already.
                await trio.sleep(0.01)
            if process is not None:
                await process.ending.wait()
            os.write(mine, b"ahoy\n")
        except OSError:
            return StreamEnd(reason="gone")
        finally:
            os.close(mine)
        return StreamEnd(reason="eof")

    async def resize(self, container_id: str, height: int, width: int, *, exec_id: str = "") -> None:
        await trio.lowlevel.checkpoint()

    async def drained(self, container_id: str, run: int) -> None:
        await self._faults.perform(self._gate, "drained", lambda: None, may_fail=False)

    # -- Meter ---------------------------------------------------------------------------------------------------------

    async def sample(self, container_id: str) -> Sample:
        await trio.lowlevel.checkpoint()
        return Sample(
            read_at_ns=0, cpu_total_ns=0, cpu_user_ns=0, cpu_system_ns=0, memory_usage=0, memory_limit=1 << 30
        )

    async def processes(self, container_id: str) -> tuple[int, ...]:
        await trio.lowlevel.checkpoint()
        return tuple(sorted(p.pid for p in self._machine.processes.values() if p.group == container_id))


def namespace_of(machine: Machine, fd: int) -> Namespace:
    """By the pipe behind a descriptor: numbers are given again, pipes are not."""
    inode = os.fstat(fd).st_ino
    for namespace in machine.living_namespaces():
        if os.fstat(namespace._reader).st_ino == inode:
            return namespace
    raise PortError("network", "no such namespace", fault=Fault.NOT_FOUND)


def _running(process: Process) -> Running:
    container_id, run, exec_id = process.key
    return Running(
        container_id=container_id,
        run=run,
        exec_id=exec_id,
        pid=process.pid,
        paused=not exec_id and process.frozen,
    )
