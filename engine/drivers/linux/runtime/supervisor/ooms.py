"""Containers that run out of memory, told when the kernel says so.

Owns: an eventfd per container on version 1 (the kernel knows no other way), one inotify for all on version 2. Refuses
to know: who hears of it. Numbers are those of the present run: how often a container has been short of memory (v1,
counted when the kernel begins to look for a victim), or how many of its processes have been killed for it (v2).
"""

from __future__ import annotations

import os
import struct

from . import cgroups
from . import kernel as k

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .held import Process
    from .loop import Loop

EVENT = struct.Struct("iIII")
READ_BYTES = 4096
CONTROL = "memory.oom_control"


class Ooms:
    def __init__(self, loop: Loop, told: Callable[[Process, int], None]) -> None:
        """told: called with a process and its number, whenever that has grown."""
        self._loop, self._told = loop, told
        self._counts: dict[int, int] = {}
        self._eventfds: dict[int, int] = {}
        self._watches: dict[int, Process] = {}
        self._inotify = -1

    def count(self, process: Process) -> int:
        return self._counts.get(process.pid, 0)

    def watch(self, process: Process) -> None:
        """From now on, and what has been before. Only for a container's first process; a group that nobody can watch
        (a kernel without the controller) is not watched."""
        path = process.group.get("oom", "")
        if process.exec_id or not path:
            return
        try:
            if path.endswith("/" + CONTROL):
                self._watch_control(process, path)
            else:
                self._watch_events(process, path)
        except OSError:
            return
        self._look(process)

    def forget(self, process: Process) -> None:
        """It has ended: its exit tells the rest."""
        fd = self._eventfds.pop(process.pid, -1)
        if fd >= 0:
            self._loop.unwatch(fd)
            os.close(fd)
        for watch in [watch for watch, watched in self._watches.items() if watched is process]:
            del self._watches[watch]
            k.inotify_remove(self._inotify, watch)
        self._counts.pop(process.pid, None)

    def _watch_control(self, process: Process, path: str) -> None:
        fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            control = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                cgroups.write(os.path.dirname(path) + "/cgroup.event_control", b"%d %d" % (fd, control))
            finally:
                os.close(control)
        except OSError:
            os.close(fd)
            raise
        self._eventfds[process.pid] = fd
        self._loop.watch(fd, lambda events: self._on_control(process, fd))

    def _on_control(self, process: Process, fd: int) -> None:
        """The kernel counts a kill later than it tells of the need for one."""
        self._grown(process, self.count(process) + os.eventfd_read(fd))

    def _watch_events(self, process: Process, path: str) -> None:
        if self._inotify < 0:
            self._inotify = k.inotify()
            self._loop.watch(self._inotify, lambda events: self._on_events())
        self._watches[k.inotify_add(self._inotify, os.fsencode(path), k.IN_MODIFY)] = process

    def _on_events(self) -> None:
        data = os.read(self._inotify, READ_BYTES)
        changed = {watch for watch, _, _, _ in EVENT.iter_unpack(data)}  # of files, events carry no names
        for watch in changed & self._watches.keys():
            self._look(self._watches[watch])

    def _look(self, process: Process) -> None:
        self._grown(process, cgroups.oom_kills(process.group["oom"]))

    def _grown(self, process: Process, count: int) -> None:
        if count > self.count(process):
            self._counts[process.pid] = count
            self._told(process, count)
