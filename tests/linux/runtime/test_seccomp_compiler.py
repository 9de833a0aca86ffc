"""The compiled filter, run by a small interpreter of classic BPF, says what the profile says."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from engine.aggregates.values import capabilities
from engine.drivers.linux.runtime.seccomp import ACTIONS, LAST_STEPS, compile_filter, default_profile, filter_of
from engine.oci import seccomp as profiles

ALLOW = ACTIONS["SCMP_ACT_ALLOW"]
EPERM = ACTIONS["SCMP_ACT_ERRNO"] | 1
KILL = 0x80000000
X86_64, X86 = 0xC000003E, 0x40000003


def run(program: bytes, number: int, *arguments: int, audit: int = X86_64) -> int:
    padded = [*arguments, *([0] * (6 - len(arguments)))]
    data = struct.pack("<IIQ6Q", number, audit, 0, *(value & (1 << 64) - 1 for value in padded))
    instructions = list(struct.iter_unpack("<HBBI", program))
    accumulator, position = 0, 0
    while True:
        code, on_true, on_false, constant = instructions[position]
        position += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, constant)
        elif code == 0x54:
            accumulator &= constant
        elif code == 0x05:
            position += constant
        elif code == 0x06:
            return constant
        else:
            holds = {0x15: accumulator == constant, 0x25: accumulator > constant, 0x35: accumulator >= constant}[code]
            position += on_true if holds else on_false


def rule(operator: str, value: int, second: int = 0) -> dict[str, Any]:
    argument = {"index": 1, "op": f"SCMP_CMP_{operator}", "value": value, "valueTwo": second}
    call = {"names": ["write"], "action": "SCMP_ACT_ALLOW", "args": [argument]}
    return {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [call]}


BIG = 5 << 32 | 7
VALUES = [0, 1, 6, 7, 8, 5 << 32, BIG - 1, BIG, BIG + 1, 6 << 32, 4 << 32 | 9, (1 << 64) - 1]


@pytest.mark.parametrize(
    ("operator", "holds"),
    [
        ("EQ", lambda a: a == BIG),
        ("NE", lambda a: a != BIG),
        ("LT", lambda a: a < BIG),
        ("LE", lambda a: a <= BIG),
        ("GT", lambda a: a > BIG),
        ("GE", lambda a: a >= BIG),
        ("MASKED_EQ", lambda a: a & BIG == 5),
    ],
)
def test_operators_compare_all_64_bits(operator: str, holds: Any) -> None:
    program = compile_filter(rule(operator, BIG, 5), "x86_64")
    assert [run(program, 1, 0, value) == ALLOW for value in VALUES] == [holds(value) for value in VALUES]


@pytest.fixture(scope="module")
def docker() -> bytes:

    resolved = profiles.for_process(default_profile(), frozenset(capabilities.DEFAULT), "x86_64", (6, 1))
    return compile_filter(resolved, "x86_64")


def test_dockers_profile_allows_and_refuses(docker: bytes) -> None:
    assert run(docker, 0) == run(docker, 59) == ALLOW
    mount, unshare, chroot, clone, clone3, personality, socket = 165, 272, 161, 56, 435, 135, 41
    assert [run(docker, number) for number in (mount, unshare)] == [EPERM, EPERM]
    assert run(docker, chroot) == ALLOW
    assert run(docker, clone, 17) == ALLOW
    assert run(docker, clone, 0x10000000 | 17) == EPERM
    assert run(docker, clone3) == ACTIONS["SCMP_ACT_ERRNO"] | 38
    assert [run(docker, personality, value) == ALLOW for value in (0, 8, 1, 0xFFFFFFFF)] == [True, True, False, True]
    assert [run(docker, socket, family) == ALLOW for family in (2, 40, 39, 38)] == [True, False, True, False]


def test_only_a_filter_that_lets_the_last_steps_pass_is_loaded_early() -> None:
    """SEC-03: or a narrow profile would have to allow more than under runc."""
    docker = profiles.for_process(default_profile(), frozenset(capabilities.DEFAULT), "x86_64", (6, 1))
    assert filter_of(docker, "x86_64").early
    allowed = {"names": sorted(LAST_STEPS), "action": "SCMP_ACT_ALLOW"}
    narrow = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [allowed]}
    assert filter_of(narrow, "x86_64").early
    for name in LAST_STEPS:
        without = {"names": sorted(LAST_STEPS - {name}), "action": "SCMP_ACT_ALLOW"}
        assert not filter_of({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [without]}, "x86_64").early
    condition = {"index": 0, "op": "SCMP_CMP_EQ", "value": 1}
    for rule in (
        {"names": ["prctl"], "action": "SCMP_ACT_ERRNO"},
        {"names": ["write"], "action": "SCMP_ACT_KILL", "args": [condition]},
    ):
        assert not filter_of({**narrow, "syscalls": [allowed, rule]}, "x86_64").early
        assert not filter_of({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}, "x86_64").early
    elsewhere = {"names": ["reboot"], "action": "SCMP_ACT_KILL"}
    assert filter_of({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [elsewhere]}, "x86_64").early


def test_other_architectures_have_their_own_numbers_and_unknown_ones_are_killed(docker: bytes) -> None:
    assert run(docker, 4, audit=X86) == ALLOW  # write of i386
    assert run(docker, 21, audit=X86) == EPERM  # mount of i386
    assert run(docker, 0x40000000 | 1) == ALLOW  # write of x32
    assert run(docker, 1, audit=0xC00000B7) == KILL


def test_conditions_on_one_argument_are_alternatives(docker: bytes) -> None:
    both = rule("EQ", 1)

    both["syscalls"][0]["args"] = [*both["syscalls"][0]["args"], {"index": 1, "op": "SCMP_CMP_EQ", "value": 2}]
    program = compile_filter(both, "x86_64")
    assert [run(program, 1, 0, value) == ALLOW for value in (1, 2, 3)] == [True, True, False]


def test_what_can_not_be_expressed_is_refused() -> None:
    with pytest.raises(ValueError, match="SCMP_ACT_NOTIFY"):
        compile_filter({"defaultAction": "SCMP_ACT_NOTIFY"}, "x86_64")
