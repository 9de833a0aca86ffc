"""Conditions of seccomp profiles: which rules hold for which process on which machine."""

from __future__ import annotations

from typing import Any

import pytest

from engine.aggregates.decider import Reason, Rejected
from engine.oci.seccomp import for_process, load

ARCHITECTURES = [
    {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
    {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
]


def profile(**rule: Any) -> dict[str, Any]:
    syscalls = [{"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", **rule}]
    return {"defaultAction": "SCMP_ACT_ERRNO", "archMap": ARCHITECTURES, "syscalls": syscalls}


def holds(
    rule: dict[str, Any], *, capabilities: frozenset[str] = frozenset(), machine: str = "x86_64", kernel=(6, 1)
) -> bool:
    return bool(for_process(profile(**rule), capabilities, machine, kernel)["syscalls"])


@pytest.mark.parametrize(
    ("rule", "process", "expected"),
    [
        ({}, {}, True),
        ({"includes": {}, "excludes": {}}, {}, True),
        ({"includes": {"caps": ["CAP_A", "CAP_B"]}}, {"capabilities": frozenset({"CAP_A"})}, False),
        ({"includes": {"caps": ["CAP_A", "CAP_B"]}}, {"capabilities": frozenset({"CAP_A", "CAP_B"})}, True),
        ({"excludes": {"caps": ["CAP_A", "CAP_B"]}}, {"capabilities": frozenset({"CAP_B"})}, False),
        ({"excludes": {"caps": ["CAP_A"]}}, {}, True),
        ({"includes": {"arches": ["amd64", "x32"]}}, {}, True),
        ({"includes": {"arches": ["arm64"]}}, {}, False),
        ({"includes": {"arches": ["arm64"]}}, {"machine": "aarch64"}, True),
        ({"includes": {"arches": ["riscv64"]}}, {"machine": "riscv64"}, True),
        ({"excludes": {"arches": ["s390x"]}}, {}, True),
        ({"excludes": {"arches": ["s390x"]}}, {"machine": "s390x"}, False),
        ({"includes": {"minKernel": "4.8"}}, {"kernel": (4, 8)}, True),
        ({"includes": {"minKernel": "4.8"}}, {"kernel": (4, 7)}, False),
        ({"includes": {"minKernel": "4.8"}}, {"kernel": (5, 0)}, True),
        ({"includes": {"minKernel": "4.18"}}, {"kernel": (4, 9)}, False),
        ({"excludes": {"minKernel": "4.8"}}, {"kernel": (4, 8)}, False),
    ],
)
def test_a_rule_holds_when_its_conditions_do(rule: dict, process: dict, expected: bool) -> None:
    assert holds(rule, **process) is expected


def test_a_rule_keeps_its_arguments_and_its_error() -> None:
    argument = {"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}
    (rule,) = for_process(profile(args=[argument], errnoRet=38), frozenset(), "x86_64", (6, 1))["syscalls"]
    assert rule == {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "errnoRet": 38, "args": [argument]}


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        ("x86_64", ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]),
        ("aarch64", ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]),
        ("riscv64", ["SCMP_ARCH_RISCV64"]),
        ("strange", []),
    ],
)
def test_architectures_are_the_machines_and_those_it_can_run(machine: str, expected: list[str]) -> None:
    assert for_process(profile(), frozenset(), machine, (6, 1))["architectures"] == expected


def test_architectures_said_outright_are_taken_as_they_are() -> None:
    given = {**profile(), "architectures": ["SCMP_ARCH_X86"], "flags": ["SCMP_FILTER_FLAG_LOG"], "defaultErrnoRet": 1}
    document = for_process(given, frozenset(), "x86_64", (6, 1))
    assert (document["architectures"], document["flags"]) == (["SCMP_ARCH_X86"], ["SCMP_FILTER_FLAG_LOG"])
    assert document["defaultErrnoRet"] == 1


def test_a_rule_of_the_old_form_names_one_call() -> None:
    old = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"name": "read", "action": "SCMP_ACT_ALLOW"}]}
    assert for_process(old, frozenset(), "x86_64", (6, 1))["syscalls"][0]["names"] == ["read"]


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", "null", b'{"syscalls": [{"names": ["x"]}]}', b'{"defaultAction": 1}']
)
def test_what_is_no_profile_is_refused(text: bytes | str) -> None:
    with pytest.raises(Rejected, match="decoding seccomp profile failed") as caught:
        load(text)
    assert caught.value.reason is Reason.INVALID


def test_a_profile_that_says_nothing_is_no_filter() -> None:
    """SEC-03: as moby reads it."""
    assert load("{}") is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"defaultAction": "A", "architectures": ["x"], "archMap": [{"architecture": "x"}]}', "use either 'archit"),
        ('{"defaultAction": "A", "syscalls": [{"name": "a", "names": ["b"], "action": "A"}]}', "use either 'name' or"),
        ('{"defaultAction": "A", "syscalls": [{"action": "A"}]}', "names no system call"),
        (
            '{"defaultAction": "A", "syscalls": [{"name": "a", "action": "A", "includes": {"minKernel": "x"}}]}',
            "version",
        ),
    ],
)
def test_profiles_that_contradict_themselves_are_refused(text: str, words: str) -> None:
    """SEC-03: in moby's words, where it has some."""
    with pytest.raises(Rejected, match=words):
        load(text)


def test_notifications_are_refused() -> None:
    """SEC-03: nobody would answer them, and the process would wait for ever."""
    with pytest.raises(Rejected, match="SCMP_ACT_NOTIFY is not implemented") as caught:
        load('{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"name": "mkdir", "action": "SCMP_ACT_NOTIFY"}]}')
    assert caught.value.reason is Reason.NOT_IMPLEMENTED
