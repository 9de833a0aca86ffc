"""Seccomp: a profile in, a BPF program out. Own compiler, run in the engine; the supervisor loads bytes. Pure.

Owns: the plain OCI form compiled: for each architecture a binary search over system call numbers whose leaves return
or test arguments. Tables of numbers are data/syscalls.json.
Refuses to know: Docker's conditions (engine/oci/seccomp.py decided them), and libseccomp, which took ten times as long
(docs/design/runtime.md).
Rough edge: SCMP_ACT_NOTIFY needs a listener and is refused.
"""

from __future__ import annotations

import functools
import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources as package_data
from typing import Any

import msgspec

Instruction = tuple[int, int, int, int]
LAST_STEPS = frozenset(
    (
        "access", "brk", "capset", "chdir", "chown", "clock_gettime", "close", "close_range", "dup3", "execve",
        "exit_group", "faccessat", "faccessat2", "fchownat", "fcntl", "fstat", "futex", "getcwd", "getdents64",
        "getpid", "gettid", "ioctl", "lseek", "lstat", "madvise", "mkdir", "mkdirat", "mmap", "mprotect", "mremap",
        "munmap", "newfstatat", "openat", "poll", "ppoll", "prctl", "read", "readlink", "recvmsg", "rt_sigaction",
        "rt_sigprocmask", "rt_sigreturn", "sched_yield", "sendmsg", "stat", "statx", "write",
    )
)  # fmt: skip
"""What a child that has its filter already may call until it is its program (supervisor/child.py, `_run`), and what
Python and libc may on the way."""

LOAD, JUMP_EQ, JUMP_GT, JUMP_GE, JUMP, RETURN, AND = 0x20, 0x15, 0x25, 0x35, 0x05, 0x06, 0x54
KILL_PROCESS = 0x80000000
ACTIONS = {
    "SCMP_ACT_KILL": 0,
    "SCMP_ACT_KILL_THREAD": 0,
    "SCMP_ACT_KILL_PROCESS": KILL_PROCESS,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": 0x00050000,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ALLOW": 0x7FFF0000,
}
AUDIT = {
    "SCMP_ARCH_X86_64": 0xC000003E,
    "SCMP_ARCH_X32": 0xC000003E,
    "SCMP_ARCH_X86": 0x40000003,
    "SCMP_ARCH_AARCH64": 0xC00000B7,
    "SCMP_ARCH_ARM": 0x40000028,
}
NATIVE = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}
FLAGS = {"SECCOMP_FILTER_FLAG_TSYNC": 1, "SECCOMP_FILTER_FLAG_LOG": 2, "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4}


@functools.cache
def default_profile() -> dict[str, Any]:
    """Docker's builtin profile (data file, immutable)."""
    return json.loads(_data("seccomp-default.json"))  # type: ignore[no-any-return]  # a JSON object by construction


@functools.cache
def _tables() -> dict[str, dict[str, int]]:
    return json.loads(_data("syscalls.json"))  # type: ignore[no-any-return]  # a JSON object by construction


def _data(name: str) -> bytes:
    return (package_data.files("engine.drivers.linux.runtime") / "data" / name).read_bytes()


class Filter(msgspec.Struct, frozen=True):
    """program: struct sock_filter[], b"" for none. flags: of seccomp(2). early: nobody notices when it is loaded before
    the last steps to a program, because it lets them pass."""

    program: bytes = b""
    flags: int = 0
    early: bool = False


def filter_of(seccomp: Mapping[str, Any], machine: str) -> Filter:
    """`linux.seccomp` of an OCI spec. Raises ValueError for what cannot be expressed."""
    flags = sum(FLAGS[name] for name in set(seccomp.get("flags") or ()) if name in FLAGS and FLAGS[name] != 1)
    return Filter(compile_filter(seccomp, machine), flags, allows(seccomp, LAST_STEPS))


def allows(seccomp: Mapping[str, Any], calls: Iterable[str]) -> bool:
    """Whether calls of these names pass, whatever their arguments. seccomp: `linux.seccomp` of an OCI spec."""
    passing = ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG")
    decided: dict[str, bool] = {}
    for rule in seccomp.get("syscalls") or ():
        passes = rule["action"] in passing and not rule.get("args")
        for name in rule["names"]:
            decided[name] = decided.get(name, True) and passes
    otherwise = seccomp["defaultAction"] in passing
    return all(decided.get(name, otherwise) for name in calls)


def compile_filter(seccomp: Mapping[str, Any], machine: str) -> bytes:
    """The program for `linux.seccomp` of an OCI spec. Raises ValueError for what it cannot express."""
    default = _action(seccomp["defaultAction"], seccomp.get("defaultErrnoRet"))
    names = list(seccomp.get("architectures") or ()) or [NATIVE[machine]]
    if NATIVE[machine] not in names:
        names.insert(0, NATIVE[machine])
    merged: dict[int, dict[int, _Target]] = {}
    for name in names:
        if name not in AUDIT or name not in _tables():
            raise ValueError(f"seccomp: unsupported architecture {name}")
        # x32 shares its audit number with x86_64 and differs by bit 30 of the call's number.
        merged.setdefault(AUDIT[name], {}).update(_table(seccomp, _tables()[name], default))
    program: list[Instruction] = [(LOAD, 0, 0, 4)]
    for audit, table in merged.items():
        block = [(LOAD, 0, 0, 0), *_compile_table(table, default)]
        if len(block) <= 255:
            program += [(JUMP_EQ, 0, len(block), audit), *block]
        else:
            program += [(JUMP_EQ, 1, 0, audit), (JUMP, 0, 0, len(block)), *block]
    program.append((RETURN, 0, 0, KILL_PROCESS))
    if len(program) > 4096:
        raise ValueError("seccomp: the profile is too large for the kernel")
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in program)


Rule = tuple[int, tuple[tuple[int, str, int, int], ...]]
_Target = int | tuple[Rule, ...]


def _action(name: str, errno_return: int | None) -> int:
    if name not in ACTIONS:
        raise ValueError(f"seccomp: unsupported action {name}")
    base = ACTIONS[name]
    if name in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"):
        base |= (1 if errno_return is None else errno_return) & 0xFFFF
    return base


def _table(seccomp: Mapping[str, Any], numbers: Mapping[str, int], default: int) -> dict[int, _Target]:
    """Per call: one action, or rules in order. A rule without arguments beats those with, as libseccomp has it."""
    table: dict[int, _Target] = {}
    for call in seccomp.get("syscalls") or ():
        action = _action(call["action"], call.get("errnoRet"))
        if action == default:
            continue
        for name in call["names"]:
            number = numbers.get(name)
            if number is None:
                continue
            known = table.get(number)
            if not call.get("args"):
                table[number] = action
            elif not isinstance(known, int):
                table[number] = (known or ()) + _rules(action, call["args"])
    return table


def _rules(action: int, arguments: Sequence[Mapping[str, Any]]) -> tuple[Rule, ...]:
    """Conditions on different arguments are all of one rule; several on the same one are alternatives (runc)."""
    conditions = tuple((int(a["index"]), str(a["op"]), int(a["value"]), int(a.get("valueTwo") or 0)) for a in arguments)
    indexes = [condition[0] for condition in conditions]
    if len(set(indexes)) == len(indexes):
        return ((action, conditions),)
    return tuple((action, (condition,)) for condition in conditions)


def _compile_table(table: Mapping[int, _Target], default: int) -> list[Instruction]:
    ranges: list[tuple[int, _Target]] = []
    following = 0

    def start(number: int, target: _Target) -> None:
        if not ranges or ranges[-1][1] != target:
            ranges.append((number, target))

    for number in sorted(table):
        if number > following:
            start(following, default)
        start(number, table[number])
        following = number + 1
    start(following, default)
    return _search(ranges, default)


def _search(ranges: Sequence[tuple[int, _Target]], default: int) -> list[Instruction]:
    if len(ranges) == 1:
        target = ranges[0][1]
        return [(RETURN, 0, 0, target)] if isinstance(target, int) else _tests(target, default)
    middle = len(ranges) // 2
    low, high = _search(ranges[:middle], default), _search(ranges[middle:], default)
    if len(low) <= 255:
        return [(JUMP_GE, len(low), 0, ranges[middle][0]), *low, *high]
    return [(JUMP_GE, 0, 1, ranges[middle][0]), (JUMP, 0, 0, len(low)), *low, *high]


def _tests(rules: Sequence[Rule], default: int) -> list[Instruction]:
    out: list[Instruction] = []
    for action, conditions in rules:
        body: list[Instruction] = []
        misses: list[tuple[int, str]] = []
        for index, operator, value, second in conditions:
            _condition(body, misses, index, operator, value, second)
        end = len(body) + 1
        for position, side in misses:
            code, on_true, on_false, constant = body[position]
            distance = end - position - 1
            body[position] = (
                (code, distance, on_false, constant) if side == "true" else (code, on_true, distance, constant)
            )
        out += [*body, (RETURN, 0, 0, action)]
    return [*out, (RETURN, 0, 0, default)]


def _condition(
    body: list[Instruction], misses: list[tuple[int, str]], index: int, operator: str, value: int, second: int
) -> None:
    """Append the test of one 64-bit argument, high half first; jumps out of the rule are listed in `misses`."""
    low_offset, high_offset = 16 + 8 * index, 20 + 8 * index
    high, low = value >> 32 & 0xFFFFFFFF, value & 0xFFFFFFFF

    def miss(code: int, constant: int, side: str) -> None:
        misses.append((len(body), side))
        body.append((code, 0, 0, constant))

    match operator.removeprefix("SCMP_CMP_"):
        case "EQ":
            body.append((LOAD, 0, 0, high_offset))
            miss(JUMP_EQ, high, "false")
            body.append((LOAD, 0, 0, low_offset))
            miss(JUMP_EQ, low, "false")
        case "MASKED_EQ":
            for offset, mask, wanted in ((high_offset, high, second >> 32), (low_offset, low, second & 0xFFFFFFFF)):
                body += [(LOAD, 0, 0, offset), (AND, 0, 0, mask)]
                miss(JUMP_EQ, wanted, "false")
        case "NE":
            # A different high half settles it: jump over the test of the low half.
            body += [(LOAD, 0, 0, high_offset), (JUMP_EQ, 0, 2, high), (LOAD, 0, 0, low_offset)]
            miss(JUMP_EQ, low, "true")
        case "GT" | "GE" as name:
            body += [(LOAD, 0, 0, high_offset), (JUMP_GT, 3, 0, high)]
            miss(JUMP_EQ, high, "false")
            body.append((LOAD, 0, 0, low_offset))
            miss(JUMP_GT if name == "GT" else JUMP_GE, low, "false")
        case "LT" | "LE" as name:
            body.append((LOAD, 0, 0, high_offset))
            miss(JUMP_GT, high, "true")
            body += [(JUMP_EQ, 0, 2, high), (LOAD, 0, 0, low_offset)]
            miss(JUMP_GE if name == "LT" else JUMP_GT, low, "true")
        case _:
            raise ValueError(f"seccomp: unsupported operator {operator}")
