"""Linux capabilities by name, in the kernel's order (capabilities(7)), and how users spell them."""

from __future__ import annotations

from collections.abc import Iterable

from engine.aggregates.decider import Reason, Rejected

ALL = tuple(
    f"CAP_{name}"
    for name in (
        "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE "
        "NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT "
        "SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL "
        "SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
    ).split()
)

DEFAULT = tuple(
    f"CAP_{name}"
    for name in (
        "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL "
        "AUDIT_WRITE"
    ).split()
)
"""What a container has unless told otherwise (SEC-01)."""


def normalize(names: Iterable[str], option: str) -> tuple[str, ...]:
    """`net_admin`, `CAP_NET_ADMIN` -> `CAP_NET_ADMIN`; ALL stays. option: `CapAdd` or `CapDrop`, for the refusal."""
    known = set(ALL)
    found: list[str] = []
    for name in names:
        upper = name.upper()
        if upper == "ALL":
            found.append(upper)
            continue
        full = upper if upper.startswith("CAP_") else f"CAP_{upper}"
        if full not in known:
            raise Rejected(Reason.INVALID, f'invalid {option}: unknown capability: "{full}"')
        found.append(full)
    return tuple(found)
