"""Platforms: `linux/amd64`, `linux/arm64/v8`, and which of them a host can run.

Owns parsing, normalising and the order of fallbacks. Source: containerd/platforms (normalisation of architecture names
and the vector of compatible variants).
"""

from __future__ import annotations

import re

import msgspec

from engine.aggregates.decider import Reason, Rejected

_ARCHITECTURES = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "i386": ("386", ""),
    "i486": ("386", ""),
    "i586": ("386", ""),
    "i686": ("386", ""),
    "aarch64": ("arm64", ""),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
}
_KNOWN = frozenset(
    {"386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64", "ppc64le"}
    | {"riscv64", "s390x", "sparc64", "wasm"}
)


class Platform(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """variant: `v7` of `linux/arm/v7`; "" for the architecture's usual one."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)

    @property
    def normalized(self) -> Platform:
        """One spelling: `linux/aarch64/v8` and `linux/arm64` are equal, `arm` is `arm/v7`, `amd64/v1` is `amd64`."""
        architecture, implied = _ARCHITECTURES.get(self.architecture.lower(), (self.architecture.lower(), ""))
        variant = self.variant.lower() or implied
        if architecture == "arm64" and variant in ("8", "v8"):
            variant = ""
        elif architecture == "arm":
            variant = {"": "v7", "5": "v5", "6": "v6", "7": "v7", "8": "v8"}.get(variant, variant)
        elif architecture == "amd64" and variant == "v1":
            variant = ""
        return Platform(os=self.os.lower() or "linux", architecture=architecture, variant=variant)


def parse(text: str, host: Platform) -> Platform:
    """Parse `os[/architecture[/variant]]` or an architecture alone; what is not said is the host's. Raises
    Rejected(INVALID)."""
    parts = text.strip().split("/")
    if not all(parts) or len(parts) > 3:
        raise Rejected(
            Reason.INVALID, f'"{text}": specifier must be in the form <os>[/<arch>[/<variant>]]: invalid argument'
        )
    if len(parts) == 1:
        one = Platform(os=host.os, architecture=parts[0]).normalized
        if one.architecture in _KNOWN:
            return one
        if parts[0] in ("linux", "windows", "darwin", "freebsd"):
            return Platform(os=parts[0], architecture=host.architecture, variant=host.variant).normalized
        raise Rejected(Reason.INVALID, f'"{text}": unknown operating system or architecture: invalid argument')
    return Platform(os=parts[0], architecture=parts[1], variant=parts[2] if len(parts) == 3 else "").normalized


def fallbacks(wanted: Platform) -> tuple[Platform, ...]:
    """What may stand for `wanted`, best first, `wanted` itself included."""
    wanted = wanted.normalized
    candidates = [wanted]
    level = _level(wanted.variant)
    if wanted.architecture == "amd64":
        candidates += [_sibling(wanted, "amd64", f"v{n}" if n > 1 else "") for n in range(level - 1, 0, -1)]
    elif wanted.architecture == "arm":
        candidates += [_sibling(wanted, "arm", f"v{n}") for n in range(level - 1, 4, -1)]
    elif wanted.architecture == "arm64" and level in (0, 8):
        candidates += [_sibling(wanted, "arm", f"v{n}") for n in range(8, 4, -1)]
    return tuple(candidates)


def _level(variant: str) -> int:
    """7 of `v7`; 0 for what has no level, and for one that no machine will have: all below it would be looked for."""
    match = re.fullmatch(r"v([0-9]{1,2})", variant, re.ASCII)
    return int(match[1]) if match else 0


def _sibling(platform: Platform, architecture: str, variant: str) -> Platform:
    return Platform(os=platform.os, architecture=architecture, variant=variant)
