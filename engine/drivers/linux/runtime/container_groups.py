"""The cgroups of living containers: where they are, standing still and going on, other limits.

Owns: the paths, as far as they are not the usual ones; what is asked of the kernel's files and of systemd for a group
that is there. Refuses to know: how groups are made and removed (supervisor/groups.py), what runs in them.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Mapping
from typing import Any

import trio

from engine.drivers.linux.runtime import cgroup_plan, limits, scope_plan, systemd
from engine.drivers.linux.runtime.host import HostFacts
from engine.errors import Fault, PortError

FREEZE_DEADLINE_S = 10.0
FREEZE_POLL_S = 0.005
_FILES = trio.CapacityLimiter(4)


class ContainerGroups:
    """claims: the folder in which the supervisor notes the groups it has made, a file for each container."""

    def __init__(self, claims: str, facts: HostFacts) -> None:
        self._claims = claims
        self._paths: dict[str, str] = {}
        self.facts = facts

    def path(self, container_id: str) -> str:
        """Below every root."""
        return self._paths.get(container_id, f"/docker/{container_id}")

    def learn(self, paths: Mapping[str, str]) -> None:
        self._paths |= paths

    def forget(self, container_id: str) -> None:
        self._paths.pop(container_id, None)

    async def claimed(self) -> dict[str, str]:
        """The groups that supervisors of this engine have made and not removed: container ids, and their paths."""
        found = await trio.to_thread.run_sync(_claimed, self._claims, limiter=_FILES)
        self._paths = found | self._paths
        return found

    async def set_frozen(self, container_id: str, *, frozen: bool) -> None:
        """Returns when every process has stopped (or goes on). v1's freezer may need to be asked again when a process
        was forking. Raises PortError, CONFLICT when the container is not running."""
        path, facts = self.path(container_id), self.facts
        if facts.version == 1:
            file = facts.mountpoint("freezer") + path + "/freezer.state"
            word = "FROZEN" if frozen else "THAWED"
            wanted, state = word, file
        else:
            file, word = facts.unified + path + "/cgroup.freeze", str(int(frozen))
            wanted, state = f"frozen {int(frozen)}", facts.unified + path + "/cgroup.events"
        try:
            with trio.fail_after(FREEZE_DEADLINE_S):
                while True:
                    _write(file, word)
                    if wanted in _read(state):
                        return
                    await trio.sleep(FREEZE_POLL_S)
        except (OSError, trio.TooSlowError) as error:
            if _is_gone(error):
                raise _not_running("freeze", container_id) from error
            raise PortError("freeze", f"cannot change the freezer of {container_id}: {error}") from error

    def is_frozen(self, container_id: str) -> bool:
        path, facts = self.path(container_id), self.facts
        try:
            if facts.version == 1:
                return "THAWED" not in _read(facts.mountpoint("freezer") + path + "/freezer.state")
            return "frozen 1" in _read(facts.unified + path + "/cgroup.events")
        except OSError:
            return False

    async def update(self, container_id: str, resources: Mapping[str, Any]) -> None:
        """New limits (`linux.resources` of an OCI spec), all or none. Raises as `set_frozen`."""
        path = self.path(container_id)
        scope = scope_plan.Scope.at(path)
        if scope is not None:
            resources = scope_plan.rounded(resources)
        writes = cgroup_plan.limit_writes(self.facts, path, resources)
        try:
            undo = await trio.to_thread.run_sync(limits.apply, writes, limiter=_FILES)
            if scope is not None:
                await self._tell_systemd(scope, resources, undo)
        except OSError as error:
            if _is_gone(error):
                raise _not_running("update", container_id) from error
            words = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
            raise PortError("update", words, errno=error.errno or 0) from error

    async def _tell_systemd(
        self, scope: scope_plan.Scope, resources: Mapping[str, Any], undo: list[cgroup_plan.Write]
    ) -> None:
        """The unit says what the group does, or both are as they were."""
        try:
            await systemd.set_properties(scope, scope_plan.properties(resources, self.facts.block_weight))
        except PortError:
            await trio.to_thread.run_sync(limits.apply, undo, limiter=_FILES)
            raise

    async def leave_scope(self, container_id: str) -> None:
        """The container has ended: its scope goes, if it is in one. As a rule systemd has seen by itself that nobody is
        left; not when the supervisor had removed the group by the time it looked: then it would keep the unit for
        ever, and refuse the next start."""
        path = self.path(container_id)
        scope = scope_plan.Scope.at(path)
        if scope is not None and (systemd.is_known(scope) or _exists(self.facts.unified + path)):
            with contextlib.suppress(PortError):
                await systemd.stop_scope(scope)


def _claimed(folder: str) -> dict[str, str]:
    found = {}
    for name in os.listdir(folder):
        # The supervisor removes groups, and their claims, at the same time.
        with contextlib.suppress(FileNotFoundError), open(f"{folder}/{name}") as claim:
            found[name] = claim.read() or f"/docker/{name}"
    return found


def _is_gone(error: Exception) -> bool:
    """Whether a file of a group could not be had because the group is no more: systemd removes a scope as soon as it is
    empty, perhaps between the opening of a file and its reading."""
    return isinstance(error, OSError) and error.errno in (errno.ENOENT, errno.ENODEV)


def _not_running(verb: str, container_id: str) -> PortError:
    return PortError(verb, f"container {container_id} is not running", fault=Fault.CONFLICT)


def _exists(path: str) -> bool:
    return os.path.exists(path)


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()
