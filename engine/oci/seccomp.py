"""Docker's seccomp profiles as OCI `linux.seccomp`: names chosen by architecture and capabilities (SEC-03).

Source: moby profiles/seccomp (the profile's format, and how includes and excludes are read).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from engine.aggregates.decider import Reason, Rejected

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "s390x": "s390x", "ppc64le": "ppc64le"}
_NATIVE = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64", "armv7l": "SCMP_ARCH_ARM"}
_NATIVE |= {"s390x": "SCMP_ARCH_S390X", "ppc64le": "SCMP_ARCH_PPC64LE", "riscv64": "SCMP_ARCH_RISCV64"}


def load(text: bytes | str) -> Mapping[str, Any]:
    """A profile from JSON. Raises Rejected(INVALID) in moby's words."""
    try:
        profile = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise Rejected(Reason.INVALID, f"decoding seccomp profile failed: {error}") from error
    if not isinstance(profile, dict) or "defaultAction" not in profile:
        raise Rejected(Reason.INVALID, "decoding seccomp profile failed: no defaultAction")
    return profile


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
    return int(major), int(minor.partition(".")[0] or 0)
