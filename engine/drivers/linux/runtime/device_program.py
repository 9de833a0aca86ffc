"""Device access on cgroup v2: rules in, an eBPF program out. Pure.

The rules are those of an OCI spec, where a later rule overrides an earlier one; the program tests them from the last
to the first and ends with the first that matches.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import msgspec

_TYPES = {"b": 1, "c": 2}
_ACCESS = {"m": 1, "r": 2, "w": 4}


class DeviceRule(msgspec.Struct, frozen=True, kw_only=True):
    """type: `a`, `b` or `c`; major, minor: -1 for any; access: of `rwm`."""

    allow: bool
    type: str = "a"
    major: int = -1
    minor: int = -1
    access: str = "rwm"

    @property
    def text(self) -> str:
        """As v1's devices.allow takes it."""
        if self.type == "a":
            return "a"
        major = "*" if self.major < 0 else str(self.major)
        minor = "*" if self.minor < 0 else str(self.minor)
        return f"{self.type} {major}:{minor} {self.access}"


def _instruction(code: int, destination: int, source: int, offset: int, value: int) -> bytes:
    return struct.pack("<BBhi", code, source << 4 | destination, offset, value)


def compile_rules(rules: Sequence[DeviceRule]) -> bytes:
    """Registers: r2 the type, r3 the access asked for, r4 and r5 the numbers; 1 allows, 0 denies."""
    program = [
        _instruction(0x61, 2, 1, 0, 0),
        _instruction(0x54, 2, 0, 0, 0xFFFF),
        _instruction(0x61, 3, 1, 0, 0),
        _instruction(0x74, 3, 0, 0, 16),
        _instruction(0x61, 4, 1, 4, 0),
        _instruction(0x61, 5, 1, 8, 0),
    ]
    for rule in reversed(rules):
        block = _rule(rule)
        program += block
        if rule.type == "a" and len(block) == 2:
            return b"".join(program)
    program += [_instruction(0xB7, 0, 0, 0, 0), _instruction(0x95, 0, 0, 0, 0)]
    return b"".join(program)


def _rule(rule: DeviceRule) -> list[bytes]:
    tests: list[tuple[int, int]] = []
    if rule.type != "a":
        tests.append((2, _TYPES[rule.type]))
    access = sum(_ACCESS[letter] for letter in set(rule.access))
    body_length = 2
    checks: list[bytes] = []
    if access != 7:
        # Access asked for beyond the rule's: not this rule. r1 is scratch from here on.
        checks += [_instruction(0xBC, 1, 3, 0, 0), _instruction(0x54, 1, 0, 0, access)]
    if rule.major >= 0:
        tests.append((4, rule.major))
    if rule.minor >= 0:
        tests.append((5, rule.minor))
    after = body_length + len(tests)
    out = list(checks)
    if access != 7:
        out.append(_instruction(0x5D, 1, 3, after, 0))
    for index, (register, value) in enumerate(tests):
        out.append(_instruction(0x55, register, 0, body_length + len(tests) - index - 1, value))
    return [*out, _instruction(0xB7, 0, 0, 0, int(rule.allow)), _instruction(0x95, 0, 0, 0, 0)]
