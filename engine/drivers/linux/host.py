"""Facts about the host, for `/info` and `/version`: read when asked, but for what lasts as long as the kernel."""

from __future__ import annotations

import functools
import os
import platform
from pathlib import Path

from engine.aggregates.values.cpusets import numbers
from engine.drivers.linux import apparmor
from engine.drivers.ports.host import HostFacts

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "ppc64le": "ppc64le", "s390x": "s390x"}
"""The kernel's word to Go's."""

_V1_LIMITS = {
    "memory": "memory/memory.limit_in_bytes",
    "swap": "memory/memory.memsw.limit_in_bytes",
    "reservation": "memory/memory.soft_limit_in_bytes",
    "swappiness": "memory/memory.swappiness",
    "oom-kill-disable": "memory/memory.oom_control",
    "cfs": "cpu/cpu.cfs_quota_us",
    "shares": "cpu/cpu.shares",
    "realtime": "cpu/cpu.rt_period_us",
    "cpuset": "cpuset/cpuset.cpus",
    "pids": "pids",
    "blkio-weight": "blkio/blkio.weight",
    "blkio-weight-device": "blkio/blkio.weight_device",
    "blkio-read-bps": "blkio/blkio.throttle.read_bps_device",
    "blkio-write-bps": "blkio/blkio.throttle.write_bps_device",
    "blkio-read-iops": "blkio/blkio.throttle.read_iops_device",
    "blkio-write-iops": "blkio/blkio.throttle.write_iops_device",
}
_V2_LIMITS = {
    "memory": ("memory", ""),
    "swap": ("memory", "memory.swap.max"),
    "reservation": ("memory", ""),
    "cfs": ("cpu", ""),
    "shares": ("cpu", ""),
    "cpuset": ("cpuset", ""),
    "pids": ("pids", ""),
    "blkio-weight": ("io", "io.weight"),
    "blkio-weight-device": ("io", "io.weight"),
    "blkio-read-bps": ("io", "io.max"),
    "blkio-write-bps": ("io", "io.max"),
    "blkio-read-iops": ("io", "io.max"),
    "blkio-write-iops": ("io", "io.max"),
}
"""Limits by Docker's names, and what shows that the kernel has them. Source: moby pkg/sysinfo."""
FILE_SYSTEMS = {"ext2": "extfs", "ext3": "extfs", "ext4": "extfs", "overlay": "overlayfs"}
"""Docker's names, where they are not the kernel's. Source: moby daemon/graphdriver (FsNames)."""


class LinuxHost:
    """Reads `facts` from /proc and /sys; a handful of small reads, so cheap enough for every `/info`."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root

    def facts(self) -> HostFacts:
        name = os.uname()
        system, version = self._os_release()
        return HostFacts(
            name=name.nodename,
            kernel_version=name.release,
            operating_system=system,
            os_version=version,
            architecture=ARCHITECTURES.get(name.machine, name.machine),
            machine=platform.machine(),
            cpus=len(os.sched_getaffinity(0)),
            memory_bytes=self._memory_bytes(),
            cgroup_version="2" if self._unified else "1",
            controllers=self._controllers,
            limits=self._limits,
            mems=self._mems(),
            systemd=(self._root / "run/systemd/system").is_dir(),  # as sd_booted(3)
            security=self.security,
            ip_forwarding=self._read("proc/sys/net/ipv4/ip_forward") == "1",
            open_files=len(os.listdir("/proc/self/fd")),
        )

    def file_system(self, path: str) -> str:
        real, found = os.path.realpath(path), ("", "<unknown>")
        for line in self._read("proc/self/mountinfo").splitlines():
            mount, _, source = line.partition(" - ")
            point, kind = mount.split(" ")[4].encode().decode("unicode_escape"), source.split(" ")[0]
            # What is mounted later on the same place hides what was there.
            if len(point) >= len(found[0]) and (real == point or real.startswith(f"{point.rstrip('/')}/")):
                found = point, kind
        return FILE_SYSTEMS.get(found[1], found[1])

    def cpu_usage(self) -> tuple[int, int]:
        """The first seven columns of /proc/stat, as moby's stats collector adds them up."""
        first, *lines = self._read("proc/stat").splitlines()
        ticks = sum(int(column) for column in first.split()[1:8])
        return ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK"), sum(line.startswith("cpu") for line in lines)

    def _read(self, path: str) -> str:
        try:
            return (self._root / path).read_text().strip()
        except OSError:
            return ""

    def _os_release(self) -> tuple[str, str]:
        text = self._read("etc/os-release") or self._read("usr/lib/os-release")
        values = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
        return (
            values.get("PRETTY_NAME", "Linux").strip("\"'"),
            values.get("VERSION_ID", "").strip("\"'"),
        )

    def _memory_bytes(self) -> int:
        for line in self._read("proc/meminfo").splitlines():
            if line.startswith("MemTotal:"):
                return int(line.split()[1]) * 1024
        return 0

    @functools.cached_property
    def _unified(self) -> bool:
        return (self._root / "sys/fs/cgroup/cgroup.controllers").exists()

    @functools.cached_property
    def _controllers(self) -> frozenset[str]:
        if self._unified:
            return frozenset(self._read("sys/fs/cgroup/cgroup.controllers").split())
        rows = [line.split() for line in self._read("proc/cgroups").splitlines() if not line.startswith("#")]
        enabled = [row[0] for row in rows if row[3] == "1"]
        return frozenset(name for name in enabled if (self._root / "sys/fs/cgroup" / name).is_dir())

    @functools.cached_property
    def _limits(self) -> frozenset[str]:
        """Which of Docker's limits work: by the files that would be written, where any group shows them."""
        groups = self._root / "sys/fs/cgroup"
        if self._unified:
            # The root group has no such files; every other one has, and only what the kernel was built with.
            children = [entry for entry in groups.iterdir() if entry.is_dir()]
            return frozenset(
                limit
                for limit, (controller, file) in _V2_LIMITS.items()
                if controller in self._controllers and (not file or any((child / file).exists() for child in children))
            )
        return frozenset(limit for limit, path in _V1_LIMITS.items() if (groups / path).exists())

    def _mems(self) -> frozenset[int]:
        path = "cpuset.mems.effective" if self._unified else "cpuset/cpuset.mems"
        try:
            return numbers(self._read(f"sys/fs/cgroup/{path}")) or frozenset({0})
        except ValueError:
            return frozenset({0})

    @functools.cached_property
    def security(self) -> frozenset[str]:
        """See the port."""
        offered = set()
        if (self._root / "proc/sys/kernel/seccomp").is_dir():
            offered.add("seccomp")
        if apparmor.parser_of(self._root):
            offered.add("apparmor")
        if (self._root / "proc/self/ns/cgroup").exists():
            offered.add("cgroupns")
        return frozenset(offered)
