"""Facts about the host, for `/info` and `/version`: read from the kernel when asked, nothing kept."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from engine.drivers.ports.host import HostFacts

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "ppc64le": "ppc64le", "s390x": "s390x"}
"""The kernel's word to Go's."""


class LinuxHost:
    """Reads `facts` from /proc and /sys; some 20 small reads, so cheap enough for every `/info`."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root

    def facts(self) -> HostFacts:
        name = os.uname()
        system, version = self._os_release()
        unified = (self._root / "sys/fs/cgroup/cgroup.controllers").exists()
        controllers = self._controllers(unified=unified)
        return HostFacts(
            name=name.nodename,
            kernel_version=name.release,
            operating_system=system,
            os_version=version,
            architecture=ARCHITECTURES.get(name.machine, name.machine),
            machine=platform.machine(),
            cpus=len(os.sched_getaffinity(0)),
            memory_bytes=self._memory_bytes(),
            cgroup_version="2" if unified else "1",
            controllers=controllers,
            limits=self._limits(unified, controllers),
            security=self._security(),
            ip_forwarding=self._read("proc/sys/net/ipv4/ip_forward") == "1",
            open_files=len(os.listdir("/proc/self/fd")),
        )

    def cpu_time_ns(self) -> int:
        """The first seven columns of /proc/stat, as moby's stats collector adds them up."""
        ticks = sum(int(column) for column in self._read("proc/stat").partition("\n")[0].split()[1:8])
        return ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK")

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

    def _controllers(self, *, unified: bool) -> frozenset[str]:
        if unified:
            return frozenset(self._read("sys/fs/cgroup/cgroup.controllers").split())
        rows = [line.split() for line in self._read("proc/cgroups").splitlines() if not line.startswith("#")]
        enabled = [row[0] for row in rows if row[3] == "1"]
        return frozenset(name for name in enabled if (self._root / "sys/fs/cgroup" / name).is_dir())

    def _limits(self, unified: bool, controllers: frozenset[str]) -> frozenset[str]:
        """Which of Docker's limits work: by the files that would be written."""
        if unified:
            wanted = {"memory": "memory", "swap": "memory", "cfs": "cpu", "shares": "cpu", "cpuset": "cpuset"}
            found = {limit for limit, controller in wanted.items() if controller in controllers}
            return frozenset(found | ({"pids"} if "pids" in controllers else set()))
        files = {
            "memory": "memory/memory.limit_in_bytes",
            "swap": "memory/memory.memsw.limit_in_bytes",
            "oom-kill-disable": "memory/memory.oom_control",
            "cfs": "cpu/cpu.cfs_quota_us",
            "shares": "cpu/cpu.shares",
            "cpuset": "cpuset/cpuset.cpus",
            "pids": "pids",
        }
        return frozenset(limit for limit, path in files.items() if (self._root / "sys/fs/cgroup" / path).exists())

    def _security(self) -> frozenset[str]:
        offered = set()
        if (self._root / "proc/sys/kernel/seccomp").is_dir():
            offered.add("seccomp")
        if self._read("sys/module/apparmor/parameters/enabled") == "Y":
            offered.add("apparmor")
        if (self._root / "proc/self/ns/cgroup").exists():
            offered.add("cgroupns")
        return frozenset(offered)
