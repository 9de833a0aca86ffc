"""The local driver's options (`type`, `o`, `device`, `size`) and their way into mount(2).

Owns which options are legal together and the table of mount flags. Pure. Sources: moby
daemon/volume/local/local_unix.go; moby/sys/mount flags_linux.go.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from engine.aggregates.values import go_values
from engine.drivers.linux.storage import kernel
from engine.errors import Fault, PortError

_VALID = ("type", "o", "device", "size")
NO_QUOTAS = "quota size requested but no quota support"
_TOGETHER = {"device": ("type",), "type": ("device",), "o": ("device", "type")}

_FLAGS: dict[str, tuple[bool, int]] = {
    "defaults": (True, 0),
    "ro": (True, kernel.MS_RDONLY),
    "rw": (False, kernel.MS_RDONLY),
    "suid": (False, kernel.MS_NOSUID),
    "nosuid": (True, kernel.MS_NOSUID),
    "dev": (False, kernel.MS_NODEV),
    "nodev": (True, kernel.MS_NODEV),
    "exec": (False, kernel.MS_NOEXEC),
    "noexec": (True, kernel.MS_NOEXEC),
    "sync": (True, kernel.MS_SYNCHRONOUS),
    "async": (False, kernel.MS_SYNCHRONOUS),
    "dirsync": (True, kernel.MS_DIRSYNC),
    "mand": (True, kernel.MS_MANDLOCK),
    "nomand": (False, kernel.MS_MANDLOCK),
    "atime": (False, kernel.MS_NOATIME),
    "noatime": (True, kernel.MS_NOATIME),
    "diratime": (False, kernel.MS_NODIRATIME),
    "nodiratime": (True, kernel.MS_NODIRATIME),
    "bind": (True, kernel.MS_BIND),
    "rbind": (True, kernel.MS_BIND | kernel.MS_REC),
    "relatime": (True, kernel.MS_RELATIME),
    "norelatime": (False, kernel.MS_RELATIME),
    "strictatime": (True, kernel.MS_STRICTATIME),
    "nostrictatime": (False, kernel.MS_STRICTATIME),
    "private": (True, kernel.MS_PRIVATE),
    "rprivate": (True, kernel.MS_PRIVATE | kernel.MS_REC),
}
PROPAGATION = kernel.MS_PRIVATE
BIND_CHANGES = kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC | kernel.MS_NOATIME


class MountRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What mount(2) is asked for; data may hold a password and is never shown."""

    device: str
    kind: str
    flags: int
    data: str

    def __repr__(self) -> str:
        return f"MountRequest({self.device!r}, {self.kind!r}, {self.flags:#x})"


def validate(options: Mapping[str, str]) -> None:
    """Raise PortError(INVALID) for options the driver does not know, that lack a companion, or that say nothing."""
    for name, value in options.items():
        if name not in _VALID:
            raise _invalid(f'invalid option: "{name}"')
        for needed in _TOGETHER.get(name, ()) if value else ():
            if not options.get(needed):
                raise _invalid(f'missing required option: "{needed}"')
    size_of(options)


def size_of(options: Mapping[str, str]) -> int:
    """What a volume may hold, in bytes; 0 without limit. Raises PortError(INVALID)."""
    text = options.get("size", "")
    try:
        return go_values.binary_bytes(text) if text else 0
    except ValueError as error:
        raise _invalid(str(error)) from error


def mount_request(options: Mapping[str, str]) -> MountRequest | None:
    """What to mount, or None for a plain directory."""
    device, kind = options.get("device", ""), options.get("type", "")
    if not device or not kind:
        return None
    flags, data = split_options(options.get("o", ""))
    return MountRequest(device=device, kind=kind, flags=flags, data=data)


def split_options(text: str) -> tuple[int, str]:
    """A mount(8) option string as flags and the rest, which the file system reads itself."""
    flags = 0
    rest: list[str] = []
    for word in text.split(",") if text else ():
        known = _FLAGS.get(word)
        if known is None:
            rest.append(word)
        else:
            flags = flags | known[1] if known[0] else flags & ~known[1]
    return flags, ",".join(rest)


def _invalid(words: str) -> PortError:
    return PortError("create volume", words, fault=Fault.INVALID)
