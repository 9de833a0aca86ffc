"""What this host offers to containers: cgroup hierarchies, limits the kernel has, the last capability.

Owns: one reading of /proc and /sys, as a frozen value that pure code takes. Refuses to know: any container.
"""

from __future__ import annotations

import os
import platform

import msgspec

_CONTROLLERS = {"cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "hugetlb", "net_cls",
                "net_prio", "perf_event", "rdma", "misc"}  # fmt: skip


class Hierarchy(msgspec.Struct, frozen=True, kw_only=True):
    """One v1 mount. name: the directory's (`cpu,cpuacct`); options: to mount it again (`cpu,cpuacct`, or
    `none,name=systemd`); controllers in it."""

    name: str
    mountpoint: str
    options: str
    controllers: tuple[str, ...]


class HostFacts(msgspec.Struct, frozen=True, kw_only=True):
    """version 1 or 2. unified: the v2 mount (on a hybrid host of version 1 too, or ""). hierarchies: v1 only.
    controllers: what can be limited, whichever the version. memory_swap: whether swap can be limited. block_weight: the
    file that takes block I/O weights, "" when there is none."""

    version: int
    unified: str = ""
    hierarchies: tuple[Hierarchy, ...] = ()
    controllers: frozenset[str] = frozenset()
    memory_swap: bool = False
    block_weight: str = ""
    capabilities: int = 41
    kernel: tuple[int, int] = (5, 12)
    machine: str = "x86_64"

    def mountpoint(self, controller: str) -> str:
        """Of a v1 controller; "" when the host has none."""
        for hierarchy in self.hierarchies:
            if controller in hierarchy.controllers:
                return hierarchy.mountpoint
        return ""


def discover() -> HostFacts:
    """Read the host. Raises OSError where /proc is not mounted."""
    unified, hierarchies = "", list[Hierarchy]()
    with open("/proc/self/mountinfo") as table:
        for line in table:
            left, _, right = line.partition(" - ")
            fstype, _, options = right.split()[:3]
            point = left.split()[4]
            if fstype == "cgroup2" and not unified:
                unified = point
            elif fstype == "cgroup" and all(point != h.mountpoint for h in hierarchies):
                hierarchies.append(_hierarchy(point, options))
    version = 1 if any(h.controllers for h in hierarchies) else 2
    controllers = {c for h in hierarchies for c in h.controllers}
    if version == 2 and unified:
        with open(unified + "/cgroup.controllers") as names:
            controllers = set(names.read().split())
    major, minor = platform.release().split(".")[:2]
    return HostFacts(
        version=version,
        unified=unified,
        hierarchies=tuple(hierarchies) if version == 1 else (),
        controllers=frozenset(controllers),
        memory_swap=_swap(version, hierarchies, unified),
        block_weight=_block_weight(version, hierarchies, unified),
        capabilities=_last_capability() + 1,
        kernel=(int(major), int("".join(c for c in minor if c.isdigit()) or 0)),
        machine=os.uname().machine,
    )


def _hierarchy(point: str, options: str) -> Hierarchy:
    words = [word for word in options.split(",") if word in _CONTROLLERS or word.startswith("name=")]
    named = [word for word in words if word.startswith("name=")]
    controllers = tuple(word for word in words if word in _CONTROLLERS)
    return Hierarchy(
        name=point.rpartition("/")[2],
        mountpoint=point,
        options=",".join(controllers) if controllers else "none," + ",".join(named),
        controllers=controllers,
    )


def _swap(version: int, hierarchies: list[Hierarchy], unified: str) -> bool:
    if version == 2:
        return bool(_shown_by_children(unified, ("memory.swap.max",)))
    return any(
        "memory" in h.controllers and os.path.exists(h.mountpoint + "/memory.memsw.limit_in_bytes") for h in hierarchies
    )


def _block_weight(version: int, hierarchies: list[Hierarchy], unified: str) -> str:
    """BFQ's file where it is in use, as runc prefers it."""
    if version == 2:
        return _shown_by_children(unified, ("io.bfq.weight", "io.weight"))
    roots = [h.mountpoint for h in hierarchies if "blkio" in h.controllers]
    files = ("blkio.weight", "blkio.bfq.weight")
    return next((file for root in roots for file in files if os.path.exists(f"{root}/{file}")), "")


def _shown_by_children(unified: str, files: tuple[str, ...]) -> str:
    """The first of `files` that a group below the root has: the root itself shows no limits."""
    try:
        children = [entry.path for entry in os.scandir(unified) if entry.is_dir()]
    except OSError:
        return ""
    return next((file for file in files if any(os.path.exists(f"{child}/{file}") for child in children)), "")


def _last_capability() -> int:
    try:
        with open("/proc/sys/kernel/cap_last_cap") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 40
