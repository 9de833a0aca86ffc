"""Ports: facts about the host, for `/info` and `/version`, and its table of processes, for `/containers/{id}/top`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec


class HostFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Memory in bytes. cgroup_version: `1` or `2`. A controller is in `controllers` when containers can be limited by
    it. limits: names of what can be limited (resource_rules.ALL_LIMITS). mems: memory nodes that containers may use.
    systemd: whether the host was booted with it. security: of the kernel (`seccomp`, `apparmor`, `cgroupns`)."""

    name: str
    kernel_version: str
    operating_system: str
    os_version: str
    architecture: str
    machine: str
    cpus: int
    memory_bytes: int
    cgroup_version: str
    controllers: frozenset[str]
    limits: frozenset[str]
    mems: frozenset[int] = frozenset({0})
    systemd: bool = False
    security: frozenset[str]
    ip_forwarding: bool
    open_files: int


class Host(Protocol):
    """The machine the engine runs on."""

    @property
    def security(self) -> frozenset[str]:
        """That of the facts, at no cost."""
        ...

    def facts(self) -> HostFacts:
        """As they are now. Quick enough for the event loop."""
        ...

    def file_system(self, path: str) -> str:
        """What a path is on, in Docker's words: `extfs`, `xfs`, `overlayfs`; `<unknown>` when nobody can tell. Quick
        enough for the event loop."""
        ...

    def cpu_usage(self) -> tuple[int, int]:
        """(CPU time of all CPUs together since boot, in ns and in every state; how many there are online): what a
        container's share is a share of."""
        ...


class ProcessTable(Protocol):
    """The host's `ps`."""

    async def rows(self, arguments: str, pids: Sequence[int]) -> dict[str, Any]:
        """{"Titles": [...], "Processes": [[...], ...]} of those pids. Raises PortError for arguments that `ps` refuses,
        or that leave the PID column out."""
        ...
