"""AppArmor: whether the host has it, and the profile `docker-default`, written and loaded (SEC-04).

Owns: the text of the profile, and handing it to apparmor_parser. Refuses to know: who is confined by it (the runtime
applies names of profiles, this one or a user's).

The rules have the effect of moby's template (moby profiles/apparmor/template.go): what a root of a container must not
do even where another layer of the confinement has a hole.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import trio

from engine.aggregates.values.security import APPARMOR_DEFAULT
from engine.errors import PortError

PARSERS = ("sbin/apparmor_parser", "usr/sbin/apparmor_parser")
POLICY = "/sys/kernel/security/apparmor/policy/profiles"


def parser_of(root: Path = Path("/")) -> str:
    """The program that loads profiles, "" where the kernel has no AppArmor, or nobody could speak to it: then the
    engine does without, as dockerd does."""
    if not (root / "sys/kernel/security/apparmor").is_dir():
        return ""
    try:
        if (root / "sys/module/apparmor/parameters/enabled").read_text().strip() != "Y":
            return ""
    except OSError:
        return ""
    return next((str(root / path) for path in PARSERS if os.access(root / path, os.X_OK)), "")


class AppArmor:
    """parser: from `parser_of`."""

    def __init__(self, parser: str) -> None:
        self._parser = parser
        self._loading = trio.Lock()

    async def ensure_default(self) -> None:
        """Load the profile unless the kernel has it: an upgrade of the host's policy may throw it out at any time."""
        async with self._loading:
            if not is_loaded(APPARMOR_DEFAULT):
                await self.load_default()

    async def load_default(self) -> None:
        """Load the profile, over an older one of the name. Raises PortError."""
        try:
            done = await trio.run_process(
                [self._parser, "--replace", "--skip-cache"],
                stdin=profile(own_label()).encode(),
                capture_stdout=True,
                stderr=subprocess.STDOUT,
                check=False,
            )
            words = done.stdout.decode(errors="replace").strip() if done.returncode else ""
        except OSError as error:
            words = str(error)
        if words:
            raise PortError(
                "apparmor",
                f"AppArmor enabled on system but the {APPARMOR_DEFAULT} profile could not be loaded: {words}",
            )


def is_loaded(name: str, policy: str = POLICY) -> bool:
    """The kernel names a profile's folder by its name and a number."""
    try:
        return any(entry.rpartition(".")[0] == name for entry in os.listdir(policy))
    except OSError:
        return False


def own_label() -> str:
    """The profile that the engine itself runs under: `unconfined`, unless somebody confined it."""
    try:
        with open("/proc/self/attr/current") as file:
            return file.read().strip("\n\0").rpartition(" (")[0] or "unconfined"
    except OSError:
        return "unconfined"


def profile(engine_label: str) -> str:
    """The text. engine_label: whose signals the containers must take."""
    return f"""#include <tunables/global>

profile {APPARMOR_DEFAULT} flags=(attach_disconnected,mediate_deleted) {{
  #include <abstractions/base>

  # Everything that the other layers (capabilities, namespaces, seccomp) let through is let through here ...
  capability,
  file,
  network,
  umount,

  # ... signals from outside and within, and tracing within,
  signal (receive) peer=unconfined,
  signal (receive) peer=runc,
  signal (receive) peer=crun,
  signal (receive) peer="{engine_label}",
  signal (send,receive) peer={APPARMOR_DEFAULT},
  ptrace (trace,read,tracedby,readby) peer={APPARMOR_DEFAULT},

  # ... but no mounts,
  deny mount,

  # no writing below /proc outside of the processes' own folders and the few sysctls that are namespaced,
  deny @{{PROC}}/* w,
  deny @{{PROC}}/{{[^1-9],[^1-9][^0-9],[^1-9s][^0-9y][^0-9s],[^1-9][^0-9][^0-9][^0-9/]*}}/** w,
  deny @{{PROC}}/sys/[^k]** w,
  deny @{{PROC}}/sys/kernel/{{?,??,[^s][^h][^m]**}} w,
  deny @{{PROC}}/sysrq-trigger rwklx,
  deny @{{PROC}}/kcore rwklx,

  # no writing below /sys outside of /sys/fs/cgroup, and no reading of firmware, power and policy.
  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,
}}
"""
