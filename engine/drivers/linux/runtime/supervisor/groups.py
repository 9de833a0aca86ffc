"""Cgroups by container: claimed before they are made, removed when nobody needs them, which may take a while.

Claims are files in `<exec-root>/groups`: two engines on one host may use the same parent group, and neither may take
the other's containers for orphans.
"""

from __future__ import annotations

import os

from . import cgroups

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


DOORS_KEPT = 16


class Groups:
    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._doors: dict[str, tuple[int, ...]] = {}
        self._live: dict[str, dict[str, Any]] = {}
        self._dying: dict[str, dict[str, Any]] = {}

    def make(self, container: str, group: dict[str, Any]) -> None:
        """Raises OSError, having asked for the removal of what was made."""
        self.claim(container, group)
        try:
            cgroups.make(group)
        except BaseException:
            self.discard(container)
            raise

    def claim(self, container: str, group: dict[str, Any]) -> None:
        """Take responsibility for a group, whoever makes it (a foreign runtime makes its own)."""
        dying = self._dying.pop(container, None)
        if dying is not None:
            cgroups.remove(dying)  # a start right after a forget: the old counters are not the new run's
        if group["trees"]:
            with open(f"{self._directory}/{container}", "w") as claim:
                claim.write(group["trees"][0]["path"])
        self._live[container] = group

    def doors(self, container: str) -> tuple[int, ...]:
        """Descriptors of the files by which a process joins a group, open for the containers that were last asked for:
        who runs one exec runs more. Raises OSError."""
        doors = self._doors.pop(container, None)
        if doors is None:
            if len(self._doors) >= DOORS_KEPT:
                self._shut(next(iter(self._doors)))
            opened: list[int] = []
            try:
                for path in self._live[container]["join"]:
                    opened.append(os.open(path, os.O_WRONLY | os.O_CLOEXEC))
            except OSError:
                for fd in opened:
                    os.close(fd)
                raise
            doors = tuple(opened)
        self._doors[container] = doors
        return doors

    def _shut(self, container: str) -> None:
        for fd in self._doors.pop(container, ()):
            os.close(fd)

    def discard(self, container: str, unknown: dict[str, Any] | None = None) -> None:
        """Kill what is left in it and remove it, now or by a later `sweep`. unknown: of a container that an earlier
        supervisor made."""
        self._shut(container)
        group = self._live.pop(container, unknown)
        if group and group["trees"]:
            cgroups.kill(group)
            self._dying[container] = group

    def discard_all(self) -> None:
        for container in list(self._live):
            self.discard(container)

    def sweep(self) -> bool:
        """True when nothing is left to remove."""
        for container, group in list(self._dying.items()):
            if cgroups.remove(group):
                del self._dying[container]
                claim = f"{self._directory}/{container}"
                if os.path.exists(claim):
                    os.unlink(claim)
        return not self._dying
