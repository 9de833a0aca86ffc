"""Mount options of an OCI spec as numbers: flags, attributes, propagation, the rest for the filesystem. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REC = 16384

FLAGS: Mapping[str, tuple[bool, int]] = {
    "ro": (True, 1), "rw": (False, 1), "nosuid": (True, 2), "suid": (False, 2), "nodev": (True, 4), "dev": (False, 4),
    "noexec": (True, 8), "exec": (False, 8), "sync": (True, 16), "async": (False, 16), "dirsync": (True, 128),
    "mand": (True, 64), "nomand": (False, 64), "noatime": (True, 1 << 10), "atime": (False, 1 << 10),
    "nodiratime": (True, 1 << 11), "diratime": (False, 1 << 11), "relatime": (True, 1 << 21),
    "norelatime": (False, 1 << 21), "strictatime": (True, 1 << 24), "nostrictatime": (False, 1 << 24),
    "iversion": (True, 1 << 23), "noiversion": (False, 1 << 23), "silent": (True, 1 << 15), "loud": (False, 1 << 15),
    "defaults": (True, 0),
}  # fmt: skip
PROPAGATION: Mapping[str, int] = {
    "private": 1 << 18, "shared": 1 << 20, "slave": 1 << 19, "unbindable": 1 << 17,
    "rprivate": 1 << 18 | MS_REC, "rshared": 1 << 20 | MS_REC, "rslave": 1 << 19 | MS_REC,
    "runbindable": 1 << 17 | MS_REC,
}  # fmt: skip
RECURSIVE_ATTRIBUTES: Mapping[str, int] = {"rro": 1, "rnosuid": 2, "rnodev": 4, "rnoexec": 8}
ATTRIBUTES = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC
"""These four have the same numbers as mount(2) flags and as mount_setattr(2) attributes."""


class MountOptions(msgspec.Struct, frozen=True, kw_only=True):
    flags: int
    data: str
    propagation: tuple[int, ...]
    recursive_attributes: int
    bind: bool
    recursive_bind: bool


def parse_options(options: Iterable[str]) -> MountOptions:
    """Every word is a flag, a propagation, or the filesystem's own; a later flag overrides an earlier one."""
    flags = recursive = 0
    data, propagation = [], []
    bind = recursive_bind = False
    for option in options:
        if option in FLAGS:
            on, flag = FLAGS[option]
            flags = flags | flag if on else flags & ~flag
        elif option in PROPAGATION:
            propagation.append(PROPAGATION[option])
        elif option in RECURSIVE_ATTRIBUTES:
            recursive |= RECURSIVE_ATTRIBUTES[option]
        elif option in ("bind", "rbind"):
            bind, recursive_bind = True, recursive_bind or option == "rbind"
        else:
            data.append(option)
    return MountOptions(
        flags=flags,
        data=",".join(data),
        propagation=tuple(propagation),
        recursive_attributes=recursive,
        bind=bind,
        recursive_bind=recursive_bind,
    )


def mount_entry(mount: Mapping[str, Any]) -> dict[str, Any]:
    """One of `spec.mounts` in the supervisor's terms (supervisor/rootfs.py)."""
    options = parse_options(mount.get("options") or ())
    kind = mount.get("type") or ("bind" if options.bind else "")
    attributes, recursive = 0, False
    if options.bind or kind == "bind":
        kind, attributes = "bind", options.flags & ATTRIBUTES
    elif kind in ("cgroup", "cgroup2"):
        kind, attributes = "cgroup", options.flags & MS_RDONLY
    if options.recursive_attributes:
        attributes, recursive = attributes | options.recursive_attributes, True
    return {
        "type": kind,
        "source": mount.get("source") or kind,
        "destination": mount["destination"],
        "flags": options.flags,
        "data": options.data,
        "propagation": list(options.propagation),
        "attributes": attributes,
        "attributes_recursive": recursive,
        "recursive": options.recursive_bind,
        "subpath": mount.get("subpath", ""),
        "lowers": list(mount.get("lowers", ())),
    }
