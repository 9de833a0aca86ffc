"""Capability names and numbers, and Docker's rules for `--cap-add` and `--cap-drop`.

Owns: the table, the fourteen defaults (SEC-01), the merge. Pure. Source: linux/capability.h, moby daemon/pkg/oci/caps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

NAMES: tuple[str, ...] = tuple(
    "CAP_" + name
    for name in (
        "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE "
        "NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT "
        "SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL "
        "SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
    ).split()
)
"""By number: NAMES[21] is CAP_SYS_ADMIN."""

NUMBERS = {name: number for number, name in enumerate(NAMES)}

DEFAULT: tuple[str, ...] = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
)


def normalize(names: Iterable[str]) -> tuple[str, ...]:
    """Upper-case with the CAP_ prefix; `ALL` stays. Raises ValueError with Docker's words for an unknown one."""
    found = []
    for name in names:
        full = name.upper()
        if full != "ALL" and not full.startswith("CAP_"):
            full = "CAP_" + full
        if full == "CAP_ALL":
            full = "ALL"
        if full != "ALL" and full not in NUMBERS:
            raise ValueError(f'unknown capability: "{name}"')
        found.append(full)
    return tuple(found)


def effective(add: Sequence[str], drop: Sequence[str], *, privileged: bool, known: int) -> tuple[str, ...]:
    """The capabilities of a container (moby caps.TweakCapabilities). `known`: how many this kernel has, from
    /proc/sys/kernel/cap_last_cap plus one."""
    every = NAMES[:known]
    if privileged:
        return every
    added, dropped = normalize(add), normalize(drop)
    if not added and not dropped:
        return DEFAULT
    if "ALL" in dropped:
        return tuple(name for name in (every if "ALL" in added else added) if name in every)
    if "ALL" in added:
        return tuple(name for name in every if name not in dropped)
    base = [name for name in DEFAULT if name not in dropped]
    return tuple(base + [name for name in dict.fromkeys(added) if name not in base and name not in dropped])


def mask(names: Iterable[str]) -> int:
    """The bit set of the names this engine knows."""
    bits = 0
    for name in names:
        if name not in NUMBERS:
            raise ValueError(f'unknown capability: "{name}"')
        bits |= 1 << NUMBERS[name]
    return bits
