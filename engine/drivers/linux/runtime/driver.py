"""LinuxRuntime: the ports Runtime and Streams over the supervisor.

Owns: what the engine remembers of the supervisor's state (live processes, exits not forgotten), the translation of
refusals into PortError with Docker's words. Refuses to know: how anything is done (supervisor/) or asked (Docker).

`run` is the one long task: it connects, reads pushes, and connects again. When the supervisor itself died, processes
it held are reported as exits with 255: nobody will ever know their status.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import msgspec
import trio

from engine.aggregates.values.security import APPARMOR_DEFAULT
from engine.drivers.linux.apparmor import AppArmor
from engine.drivers.linux.logs.doors import NoLogServer, open_door
from engine.drivers.linux.runtime import cgroup_plan, plan, scope_plan, systemd
from engine.drivers.linux.runtime.connection import Connection, Refusal
from engine.drivers.linux.runtime.container_groups import ContainerGroups
from engine.drivers.linux.runtime.host import HostFacts, discover
from engine.drivers.linux.runtime.seccomp import Filter, filter_of
from engine.drivers.ports.runtime import ExecLaunch, Exit, Inventory, Launch, OutOfMemory, Running, StreamEnd
from engine.errors import Fault, PortError

_logger = logging.getLogger(__name__)

Key = tuple[str, int, str]
LOST_EXIT_CODE = 255
START_PREFIX = (
    "failed to create task for container: failed to create shim task: OCI runtime create failed: "
    "runc create failed: unable to start container process: "
)
FOREIGN_PREFIX = "failed to create task for container: failed to create shim task: OCI runtime create failed: "
EXEC_PREFIX = "OCI runtime exec failed: exec failed: unable to start container process: "
STARTING_DEADLINE_S = 10.0
RESTART_INTERVAL_S = 2.0
"""Between two attempts to have a supervisor again."""
FILTERS_MAX = 64


class LinuxRuntime:
    """Runtime and Streams. `exec_root` on a tmpfs holds the socket, `data_root` the journal of exits. apparmor: where
    the host has it. look_only: no supervisor is started; where none lives, nothing runs."""

    def __init__(
        self, exec_root: str, data_root: str, apparmor: AppArmor | None = None, *, look_only: bool = False
    ) -> None:
        self._look_only = look_only
        self._alone = False
        self._exec_root = exec_root
        self._apparmor = apparmor
        self._connection = Connection(exec_root, data_root)
        self._living: ContainerGroups | None = None
        self._running: dict[Key, int] = {}
        self._exits: dict[Key, Exit] = {}
        self._changed = trio.Event()
        self._ooms: dict[tuple[str, int], OutOfMemory] = {}
        self._attachments: dict[int, trio.Event] = {}
        self._ends: dict[int, str] = {}
        self._filters: dict[bytes, Filter] = {}
        self._leaving = False

    @property
    def _groups(self) -> ContainerGroups:
        assert self._living is not None, "run() has not started"
        return self._living

    @property
    def facts(self) -> HostFacts:
        """What the host offers; there after `run` has started."""
        return self._groups.facts

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold the connection, for ever. Started once connected and synchronised."""
        self._living = ContainerGroups(self._exec_root + "/groups", discover())
        if self._look_only and not await self._connection.is_there():
            self._alone = True
            task_status.started()
            await trio.sleep_forever()
        first = True
        while True:
            try:
                await self._connection.open()
            except PortError as error:
                if first:
                    raise
                # Later the engine is worth having without: it answers what needs none, and refuses the rest in words.
                _logger.error("no supervisor: %s", error.message)
                await trio.sleep(RESTART_INTERVAL_S)
                continue
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._synchronise, nursery.cancel_scope, first)
                if first:
                    task_status.started()
                    first = False
                await self._connection.receive(self._on_push)
                nursery.cancel_scope.cancel()
            self._forget_attachments()

    async def _synchronise(self, scope: trio.CancelScope, first: bool) -> None:
        """After (re)connecting: exits that happened meanwhile, processes that nobody holds any more, and groups that an
        earlier supervisor was about to remove (at a start of the engine they are orphans of the inventory)."""
        try:
            found = await self._connection.request("list")
        except PortError:
            scope.cancel()
            return
        live = {(r["container_id"], r["run"], r["exec_id"]): r["pid"] for r in found["running"]}
        for raw in found["exits"]:
            self._add_exit(Exit(**raw))
        for container_id, run, exec_id in set(self._running) - set(live) - set(self._exits):
            self._add_exit(
                Exit(
                    container_id=container_id,
                    run=run,
                    exec_id=exec_id,
                    exit_code=LOST_EXIT_CODE,
                    lost=True,
                    finished_at_ns=time.time_ns(),
                )
            )
        self._running = live
        for raw in found["running"]:
            if raw.get("ooms"):  # a supervisor may be older than this engine
                self._add_oom(OutOfMemory(container_id=raw["container_id"], run=raw["run"], count=raw["ooms"]))
        self._groups.learn({r["container_id"]: r["group"] for r in found["running"] if r["group"]})
        if not first:
            await self._forget_groups({container_id for container_id, _, _ in (*live, *self._exits)})

    async def _forget_groups(self, needed: set[str]) -> None:
        """Have the groups removed of all but these containers. A start that is under way claims its own anew."""
        for container_id, path in (await self._groups.claimed()).items():
            if container_id not in needed:
                group = cgroup_plan.group_plan(self.facts, path, {})
                with contextlib.suppress(PortError):  # lost again: the next one is asked
                    await self._ask("forget", container_id=container_id, run=0, exec_id="", group=group)

    def _on_push(self, kind: str, value: Any) -> None:
        if kind == "exit":
            self._add_exit(Exit(**value))
        elif kind == "oom":
            self._add_oom(OutOfMemory(**value))
        elif kind == "stream_end":
            ident, reason = value
            self._ends[ident] = reason
            self._attachments.setdefault(ident, trio.Event()).set()

    def _add_exit(self, exit_: Exit) -> None:
        key = (exit_.container_id, exit_.run, exit_.exec_id)
        self._running.pop(key, None)
        if key not in self._exits:
            self._exits[key] = exit_
            self._notify()

    def _add_oom(self, oom: OutOfMemory) -> None:
        self._ooms[oom.container_id, oom.run] = oom
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def _forget_attachments(self) -> None:
        for event in self._attachments.values():
            event.set()

    # ---- Runtime

    async def start(self, launch: Launch) -> int:
        if self._apparmor is not None and launch.spec["process"].get("apparmorProfile") == APPARMOR_DEFAULT:
            await self._apparmor.ensure_default()
        if launch.runtime == "native":
            verb, prefix = "start", START_PREFIX + "error during container init: "
            spec_filter = (launch.spec.get("linux") or {}).get("seccomp")
            prepared = plan.container_plan(launch, self.facts, self._compile(spec_filter) if spec_filter else Filter())
            prepared["placeholder"] = await self._scope(launch)
        else:
            verb, prefix = "start_foreign", FOREIGN_PREFIX
            prepared = plan.foreign_plan(launch, self.facts, self._exec_root)
        path = (launch.spec.get("linux") or {}).get("cgroupsPath") or f"/docker/{launch.container_id}"
        self._groups.learn({launch.container_id: plan.cgroup_path(path)})
        fds = (launch.netns_fd,) if launch.netns_fd >= 0 else ()
        log = prepared["stdio"]["log"]
        try:
            door = await open_door(log)
        except NoLogServer as error:
            raise plan.no_log(str(error)) from error
        try:
            log["handed"] = door >= 0
            pid: int = await self._connection.request(verb, (*fds, door) if door >= 0 else fds, plan=prepared)
        except Refusal as refusal:
            await self._groups.leave_scope(launch.container_id)
            raise start_error("start", prefix, refusal) from refusal
        finally:
            if door >= 0:
                os.close(door)
        key = (launch.container_id, launch.run, "")
        if key not in self._exits:
            self._running[key] = pid
        return pid

    async def _scope(self, launch: Launch) -> int:
        """The container's scope, where systemd owns the groups: the pid of the process that keeps it until the start.
        0 where the supervisor makes the group. Raises PortError."""
        linux = launch.spec.get("linux") or {}
        scope = scope_plan.scope_of(linux.get("cgroupsPath") or "")
        if scope is None:
            return 0
        resources = scope_plan.complete(scope_plan.rounded(linux.get("resources") or {}))
        rules = cgroup_plan.device_rules(resources.get("devices") or ())
        devices = scope_plan.device_properties(rules, scope_plan.device_names(_read("/proc/devices")))
        properties = scope_plan.properties(resources, self.facts.block_weight) + devices
        pid: int = await self._ask("hold")
        try:
            description = f"container {launch.container_id}"
            await systemd.start_scope(scope, pid, properties, description=description)
        except BaseException as error:
            with trio.CancelScope(shield=True):
                await self._ask("release", pid=pid)
            if isinstance(error, PortError):
                words = START_PREFIX + f"unable to apply cgroup configuration: {error.message}"
                raise PortError("start", words, errno=error.errno, exit_code=128) from error
            raise
        return pid

    async def execute(self, launch: ExecLaunch) -> int:
        prepared = plan.exec_plan(launch)
        try:
            pid: int = await self._connection.request("execute", plan=prepared)
        except Refusal as refusal:
            raise start_error("execute", EXEC_PREFIX, refusal) from refusal
        runs = [run for container_id, run, exec_id in self._running if container_id == launch.container_id]
        key = (launch.container_id, max(runs, default=0), launch.exec_id)
        if key not in self._exits:
            self._running[key] = pid
        return pid

    def approach(self, container_id: str, exec_id: str) -> None:
        self._connection.tell("approach", container_id=container_id, exec_id=exec_id)

    def expect(self, launch: ExecLaunch) -> None:
        self._connection.tell("expect", plan=plan.exec_plan(launch))

    def _compile(self, spec_filter: Mapping[str, Any]) -> Filter:
        """Compiled once for each distinct filter; the cache is bounded."""
        key = msgspec.json.encode(spec_filter)
        if key not in self._filters:
            if len(self._filters) >= FILTERS_MAX:
                self._filters.clear()
            try:
                self._filters[key] = filter_of(spec_filter, self.facts.machine)
            except ValueError as error:
                raise PortError("start", str(error), fault=Fault.INVALID, exit_code=128) from error
        return self._filters[key]

    async def signal(self, container_id: str, signal_number: int, *, exec_id: str = "") -> None:
        await self._ask("signal", container_id=container_id, exec_id=exec_id, number=int(signal_number))

    async def _ask(self, verb: str, fds: tuple[int, ...] = (), **arguments: Any) -> Any:
        try:
            return await self._connection.request(verb, fds, **arguments)
        except Refusal as refusal:
            fault = Fault.NOT_FOUND if refusal.number == 3 else Fault.SYSTEM
            raise PortError(verb, refusal.message, errno=refusal.number, fault=fault) from refusal

    def cgroup_of(self, container_id: str) -> str:
        """The path of a container's cgroup below every root."""
        return self._groups.path(container_id)

    async def freeze(self, container_id: str) -> None:
        await self._groups.set_frozen(container_id, frozen=True)

    async def thaw(self, container_id: str) -> None:
        await self._groups.set_frozen(container_id, frozen=False)

    async def update(self, container_id: str, resources: Mapping[str, Any]) -> None:
        await self._groups.update(container_id, resources)

    async def list(self) -> Inventory:
        found = {"running": (), "exits": ()} if self._alone else await self._settled_list()
        running = tuple(
            Running(
                container_id=raw["container_id"],
                run=raw["run"],
                exec_id=raw["exec_id"],
                pid=raw["pid"],
                paused=not raw["exec_id"] and self._groups.is_frozen(raw["container_id"]),
            )
            for raw in found["running"]
        )
        known = {r.container_id for r in running} | {raw["container_id"] for raw in found["exits"]}
        claims = await self._groups.claimed()
        return Inventory(
            running=running,
            exits=tuple(Exit(**raw) for raw in found["exits"]),
            orphans=tuple(sorted(set(claims) - known)),
        )

    async def _settled_list(self) -> Any:
        """A start that an earlier engine began and did not live to see is neither running nor over for some
        milliseconds: it is waited for, because whoever began it again would make it a second sandbox."""
        deadline = trio.current_time() + STARTING_DEADLINE_S
        while True:
            found = await self._ask("list")
            if not found.get("starting") or trio.current_time() > deadline:
                return found
            await trio.sleep(0.005)

    async def forget(self, container_id: str, run: int, *, exec_id: str = "") -> None:
        self._exits.pop((container_id, run, exec_id), None)
        if not exec_id:
            self._ooms.pop((container_id, run), None)
        group = {} if exec_id else cgroup_plan.group_plan(self.facts, self.cgroup_of(container_id), {})
        await self._ask("forget", container_id=container_id, run=run, exec_id=exec_id, group=group)
        if exec_id:
            return
        await self._groups.leave_scope(container_id)
        if not any(key[0] == container_id for key in self._running):
            self._groups.forget(container_id)

    async def exits(self) -> AsyncIterator[Exit]:
        """Every exit not forgotten, once for each iteration of this generator, oldest first."""
        seen: set[Key] = set()
        while True:
            changed = self._changed
            for key, exit_ in list(self._exits.items()):
                if key not in seen:
                    seen.add(key)
                    yield exit_
            seen.intersection_update(self._exits)
            await changed.wait()

    async def ooms(self) -> AsyncIterator[OutOfMemory]:
        seen: set[OutOfMemory] = set()
        while True:
            changed = self._changed
            for oom in set(self._ooms.values()) - seen:
                seen.add(oom)
                yield oom
            seen.intersection_update(self._ooms.values())
            await changed.wait()

    def let_go(self) -> None:
        """The engine stops: attachments cancelled from now on stay with the copier, and their clients stay attached."""
        self._leaving = True

    async def shutdown(self) -> None:
        """Kill every container and end the supervisor: for tests, never part of an engine's stop."""
        await self._ask("shutdown")

    # ---- Streams

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
        want = {"stdin": stdin, "stdout": stdout, "stderr": stderr, "multiplexed": multiplexed}
        ident: int = await self._ask(
            "attach",
            (client_fd,),
            container_id=container_id,
            exec_id=exec_id,
            want=want,
            detach_keys=detach_keys,
            early_input=early_input,
            sent=registered,
        )
        ended = self._attachments.setdefault(ident, trio.Event())
        try:
            await ended.wait()
        except trio.Cancelled:
            if self._leaving:
                raise
            with trio.move_on_after(1) as scope:
                scope.shield = True
                with contextlib.suppress(PortError):
                    await self._ask("cancel", ident=ident)
            raise
        finally:
            self._attachments.pop(ident, None)
            reason = self._ends.pop(ident, "gone")
        return StreamEnd(reason=reason)

    async def resize(self, container_id: str, height: int, width: int, *, exec_id: str = "") -> None:
        await self._ask("resize", container_id=container_id, exec_id=exec_id, height=height, width=width)

    async def drained(self, container_id: str, run: int, *, exec_id: str = "") -> None:
        await self._ask("drained", container_id=container_id, run=run, exec_id=exec_id)


def start_error(operation: str, prefix: str, refusal: Refusal) -> PortError:
    """The exit code and fault as moby derives them from the runtime's text (daemon/errors.go)."""
    text, code = refusal.message, refusal.exit_code
    if text.startswith("runtime log: "):
        text = _last_complaint(text.removeprefix("runtime log: "))
    lower = text.lower()
    if "executable file not found" in lower or "no such file or directory" in lower:
        code = 127
    elif "permission denied" in lower or "is a directory" in lower:
        code = 126
    elif "not a directory" in lower:
        code = 127
        text += (
            ": Are you trying to mount a directory onto a file (or vice-versa)? "
            "Check if the specified host path exists and is the expected type"
        )
    code = code or 128
    fault = Fault.INVALID if code in (126, 127) else Fault.SYSTEM
    return PortError(operation, prefix + text, fault=fault, errno=refusal.number, exit_code=code)


def _last_complaint(log: str) -> str:
    """The last message of a foreign runtime's JSON log, as moby shows it."""
    found = "the OCI runtime gave no reason"
    for line in log.splitlines():
        with contextlib.suppress(msgspec.DecodeError):
            found = msgspec.json.decode(line, type=dict[str, str]).get("msg", found)
    return found


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()
