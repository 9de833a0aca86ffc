"""Docker's seccomp profiles as OCI `linux.seccomp`: names chosen by architecture and capabilities (SEC-03).

Source: moby profiles/seccomp (the profile's format, and how includes and excludes are read). A profile that needs
somebody to ask (SCMP_ACT_NOTIFY) is refused: nobody listens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from engine.aggregates.decider import Reason, Rejected

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "s390x": "s390x", "ppc64le": "ppc64le"}
_NATIVE = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64", "armv7l": "SCMP_ARCH_ARM"}
_NATIVE |= {"s390x": "SCMP_ARCH_S390X", "ppc64le": "SCMP_ARCH_PPC64LE", "riscv64": "SCMP_ARCH_RISCV64"}


class _Argument(msgspec.Struct, rename="camel"):
    index: int
    value: int
    op: str
    value_two: int = 0


class _Filter(msgspec.Struct, rename="camel"):
    caps: list[str] | None = None
    arches: list[str] | None = None
    min_kernel: str | None = None


class _Rule(msgspec.Struct, rename="camel"):
    action: str
    name: str = ""
    names: list[str] | None = None
    errno_ret: int | None = None
    args: list[_Argument] | None = None
    includes: _Filter | None = None
    excludes: _Filter | None = None


class _Architecture(msgspec.Struct, rename="camel"):
    architecture: str
    sub_architectures: list[str] | None = None


class _Profile(msgspec.Struct, rename="camel"):
    """The shape of a profile: only that it has it is of interest, what is passed on is the JSON itself."""

    default_action: str = ""
    default_errno_ret: int | None = None
    architectures: list[str] | None = None
    arch_map: list[_Architecture] | None = None
    flags: list[str] | None = None
    syscalls: list[_Rule] | None = None


def load(text: bytes | str) -> Mapping[str, Any] | None:
    """A profile from JSON; None for one that says nothing at all, which means no filter (as moby). Raises
    Rejected(INVALID) in moby's words."""
    try:
        document = msgspec.json.decode(text)
        shape = msgspec.convert(document, _Profile)
    except msgspec.ValidationError as error:
        raise _invalid(f"decoding seccomp profile failed: {error}") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise _invalid(f"decoding seccomp profile failed: {error}") from error
    rules = shape.syscalls or []
    if not shape.default_action and not rules:
        return None
    if not shape.default_action:
        raise _invalid("decoding seccomp profile failed: no defaultAction")
    if shape.architectures and shape.arch_map:
        raise _invalid(
            "'architectures' and 'archMap' were specified in the seccomp profile, use either 'architectures' or "
            "'archMap'"
        )
    if any(rule.name and rule.names for rule in rules):
        raise _invalid("'name' and 'names' were specified in the seccomp profile, use either 'name' or 'names'")
    if any(not rule.name and not rule.names for rule in rules):
        raise _invalid("decoding seccomp profile failed: a rule names no system call")
    if "SCMP_ACT_NOTIFY" in (shape.default_action, *(rule.action for rule in rules)):
        raise Rejected(Reason.NOT_IMPLEMENTED, "seccomp: SCMP_ACT_NOTIFY is not implemented: nobody would be notified")
    for rule in rules:
        for condition in (rule.includes, rule.excludes):
            if condition is not None and condition.min_kernel:
                _version(condition.min_kernel)
    return dict(document)


def _invalid(message: str) -> Rejected:
    return Rejected(Reason.INVALID, message)


def for_process(
    profile: Mapping[str, Any], capabilities: frozenset[str], machine: str, kernel: tuple[int, int]
) -> dict[str, Any]:
    """The profile with its conditions decided: for a set of capabilities, a machine (uname -m) and a kernel version."""
    document: dict[str, Any] = {"defaultAction": profile["defaultAction"]}
    if profile.get("defaultErrnoRet") is not None:
        document["defaultErrnoRet"] = profile["defaultErrnoRet"]
    document["architectures"] = _architectures(profile, machine)
    if profile.get("flags"):
        document["flags"] = list(profile["flags"])
    syscalls = []
    for rule in profile.get("syscalls") or ():
        if not _applies(rule, capabilities, _ARCHITECTURES.get(machine, machine), kernel):
            continue
        entry: dict[str, Any] = {"names": rule.get("names") or [rule["name"]], "action": rule["action"]}
        if rule.get("errnoRet") is not None:
            entry["errnoRet"] = rule["errnoRet"]
        if rule.get("args"):
            entry["args"] = list(rule["args"])
        syscalls.append(entry)
    document["syscalls"] = syscalls
    return document


def _architectures(profile: Mapping[str, Any], machine: str) -> list[str]:
    if profile.get("architectures"):
        return list(profile["architectures"])
    native = _NATIVE.get(machine, "")
    for entry in profile.get("archMap") or ():
        if entry["architecture"] == native:
            return [native, *(entry.get("subArchitectures") or ())]
    return [native] if native else []


def _applies(rule: Mapping[str, Any], capabilities: frozenset[str], architecture: str, kernel: tuple[int, int]) -> bool:
    """Includes must all hold, excludes must not."""
    includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
    if includes.get("arches") and architecture not in includes["arches"]:
        return False
    if not all(name in capabilities for name in includes.get("caps") or ()):
        return False
    if includes.get("minKernel") and kernel < _version(includes["minKernel"]):
        return False
    if architecture in (excludes.get("arches") or ()):
        return False
    if any(name in capabilities for name in excludes.get("caps") or ()):
        return False
    return not (excludes.get("minKernel") and kernel >= _version(excludes["minKernel"]))


def _version(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    try:
        return int(major), int(minor.partition(".")[0] or 0)
    except ValueError as error:
        raise _invalid(f'decoding seccomp profile failed: invalid kernel version "{text}"') from error
