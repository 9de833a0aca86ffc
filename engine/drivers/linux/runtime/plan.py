"""From an OCI runtime spec to the supervisor's plan: numbers, bytes and paths, nothing left to interpret. Pure.

Owns: the meaning of the spec for the native runtime. Refuses to know: Docker (oci_spec.py) and the kernel
(supervisor/). What a spec asks and we cannot do raises PortError(NOT_IMPLEMENTED) here, before anything happens.
"""

from __future__ import annotations

import resource
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from engine.aggregates.values import capabilities
from engine.aggregates.values.id_map import IdRange, outside
from engine.aggregates.values.sysctls import sysctl_path
from engine.drivers.linux.logs.plans import log_plan
from engine.drivers.linux.runtime import cgroup_plan
from engine.drivers.linux.runtime.host import HostFacts
from engine.drivers.linux.runtime.mount_options import PROPAGATION, mount_entry
from engine.drivers.linux.runtime.scope_plan import rounded, scope_of
from engine.drivers.linux.runtime.seccomp import Filter
from engine.drivers.ports.runtime import ExecLaunch, Launch, LogSpec, RootFilesystem, Stdio
from engine.errors import Fault, PortError

NAMESPACES = {
    "mount": 0x20000,
    "cgroup": 0x02000000,
    "uts": 0x04000000,
    "ipc": 0x08000000,
    "user": 0x10000000,
    "pid": 0x20000000,
    "network": 0x40000000,
}
RLIMIT_LOCKS = 10
"""The one limit of Docker's that Python has no name for. Source: asm-generic/resource.h."""
DEVICE_TYPES = {"c": 0o020000, "u": 0o020000, "b": 0o060000, "p": 0o010000}
DEFAULT_DEVICES = tuple(
    (f"/dev/{name}", 0o020666, major, minor, -1, -1)
    for name, major, minor in (
        ("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0),
    )
)  # fmt: skip


def unsupported(what: str) -> PortError:
    return PortError("start", f"{what} is not implemented", fault=Fault.NOT_IMPLEMENTED)


def no_log(why: str) -> PortError:
    """In the words that moby's shim and daemon put around a driver's."""
    return PortError("start", f"failed to create task for container: failed to initialize logging driver: {why}")


def container_plan(launch: Launch, facts: HostFacts, filter_: Filter) -> dict[str, Any]:
    """The whole start. filter_: linux.seccomp compiled."""
    spec = launch.spec
    linux = spec.get("linux") or {}
    text = linux.get("cgroupsPath") or f"/docker/{launch.container_id}"
    path, scope = cgroup_path(text), scope_of(text)
    resources = linux.get("resources") or {}
    if scope is not None:
        resources = rounded(resources)
    namespaces = {entry["type"]: entry.get("path") or "" for entry in linux.get("namespaces") or ()}
    user = user_namespace(linux, namespaces, launch.netns_fd) if "user" in namespaces else None
    if "mount" not in namespaces or namespaces["mount"]:
        raise unsupported("a container without a mount namespace of its own")
    new = sum(NAMESPACES[kind] for kind, joined in namespaces.items() if not joined and kind not in ("cgroup", "user"))
    if launch.netns_fd >= 0:
        new &= ~NAMESPACES["network"]
    mounts = [_with_cgroups(mount_entry(m), facts, path, "cgroup" in namespaces) for m in spec.get("mounts") or ()]
    mounts = [entry if user is None else _shifted(entry, user) for entry in mounts]
    propagation = linux.get("rootfsPropagation") or ""
    return {
        "container_id": launch.container_id,
        "exec_id": "",
        "run": launch.run,
        "clone_flags": new,
        "joins": [
            (joined, NAMESPACES[kind])
            for kind, joined in namespaces.items()
            if joined and kind not in ("pid", "mount", "user")
        ],
        "keyring": keyring(launch.container_id),
        "user_namespace": user,
        "pid_namespace": namespaces.get("pid", ""),
        "own_pid_namespace": "pid" in namespaces and not namespaces["pid"],
        "cgroup_namespace": "cgroup" in namespaces,
        "loopback": bool(new & NAMESPACES["network"]),
        "cgroup": cgroup_plan.group_plan(facts, path, resources, made=scope is not None),
        "placeholder": 0,
        "rootfs": rootfs_plan(launch.rootfs),
        "propagation": PROPAGATION[propagation or "rslave"],
        "root_propagation": PROPAGATION[propagation] if propagation else 0,
        "mounts": mounts,
        "devices": None if _brings_devices(mounts) else devices(linux),
        "readonly": bool((spec.get("root") or {}).get("readonly")),
        "masked_paths": list(linux.get("maskedPaths") or ()),
        "readonly_paths": list(linux.get("readonlyPaths") or ()),
        "sysctls": [(sysctl_path(name), value) for name, value in (linux.get("sysctl") or {}).items()],
        "hostname": spec.get("hostname") or "",
        "oom_score_adj": spec["process"].get("oomScoreAdj"),
        "process": {**process_plan(spec["process"], filter_), "make_cwd": True},
        "stdio": stdio_plan(launch.stdio, launch.log),
    }


def foreign_plan(launch: Launch, facts: HostFacts, exec_root: str) -> dict[str, Any]:
    """A start by another OCI runtime: its config.json, and what stays ours (overlay, stdio, the group's removal)."""
    spec = launch.spec
    linux = spec.get("linux") or {}
    text = linux.get("cgroupsPath") or f"/docker/{launch.container_id}"
    path = cgroup_path(text)
    bundle = f"{exec_root}/bundles/{launch.container_id}"
    namespaces = [dict(entry) for entry in linux.get("namespaces") or ()]
    if any(entry["type"] == "user" for entry in namespaces):
        raise unsupported(f"a user namespace with the runtime {launch.runtime}")
    if any("subpath" in mount or "lowers" in mount for mount in spec.get("mounts") or ()):
        raise unsupported(f"a mount of a subpath or of an image with the runtime {launch.runtime}")
    for entry in namespaces:
        if entry["type"] == "network" and launch.netns_fd >= 0:
            entry["path"] = bundle + "/netns"
    config = {
        **spec,
        "root": {**(spec.get("root") or {}), "path": bundle + "/rootfs"},
        "process": {**spec["process"], "terminal": launch.stdio.tty},
        "linux": {**linux, "cgroupsPath": text if scope_of(text) else path, "namespaces": namespaces},
    }
    group = cgroup_plan.group_plan(facts, path, {})
    return {
        "container_id": launch.container_id,
        "run": launch.run,
        "runtime": launch.runtime,
        "runtime_flags": ["--systemd-cgroup"] if scope_of(text) else [],
        "config": msgspec.json.encode(config),
        "own_pid_namespace": any(e["type"] == "pid" and not e.get("path") for e in namespaces),
        "cgroup": {**group, "writes": [], "device_program": b""},
        "hidden_cgroup": facts.unified if facts.version == 1 else "",
        "rootfs": rootfs_plan(launch.rootfs),
        "stdio": stdio_plan(launch.stdio, launch.log),
    }


def rootfs_plan(rootfs: RootFilesystem) -> dict[str, Any]:
    return {
        "lowers": list(rootfs.lowers),
        "upper": rootfs.upper,
        "work": rootfs.work,
        "volatile": rootfs.volatile,
    }


def exec_plan(launch: ExecLaunch) -> dict[str, Any]:
    """A further process. Its seccomp filter is the container's, which the supervisor has kept."""
    return {
        "container_id": launch.container_id,
        "exec_id": launch.exec_id,
        "run": 0,
        "document": msgspec.json.encode({**launch.process, "terminal": launch.stdio.tty}),
        "keyring": keyring(launch.container_id),
        "oom_score_adj": launch.process.get("oomScoreAdj"),
        "process": process_plan(launch.process, Filter()),
        "stdio": stdio_plan(launch.stdio, LogSpec(driver="none")),
    }


def user_namespace(
    linux: Mapping[str, Any], namespaces: Mapping[str, str], netns_fd: int
) -> dict[str, Any]:
    """The user namespace of a container: the one its network namespace belongs to, or another container's."""
    if not namespaces["user"] and netns_fd < 0:
        raise unsupported("a user namespace without a network namespace that belongs to it")
    ranges = {
        kind: [(entry["containerID"], entry["hostID"], entry["size"]) for entry in linux.get(f"{kind}Mappings") or ()]
        for kind in ("uid", "gid")
    }
    return {
        "path": namespaces["user"],
        "uids": ranges["uid"],
        "gids": ranges["gid"],
        "root": (_on_host(ranges["uid"], 0), _on_host(ranges["gid"], 0)),
    }


def _on_host(ranges: Iterable[tuple[int, int, int]], inside: int) -> int:
    found = outside((IdRange(*each) for each in ranges), inside)
    if found is None:
        raise PortError("start", f"no mapping for the id {inside}", fault=Fault.INVALID)
    return found


def _shifted(entry: dict[str, Any], user: Mapping[str, Any]) -> dict[str, Any]:
    """Owners in a file system's own options are the container's, and it is mounted by the host."""
    if entry["type"] not in ("tmpfs", "devpts"):
        return entry
    words = []
    for word in entry["data"].split(","):
        name, _, value = word.partition("=")
        if name in ("uid", "gid") and value.isdecimal():
            word = f"{name}={_on_host(user[name + 's'], int(value))}"
        words.append(word)
    return {**entry, "data": ",".join(words)}


def keyring(container_id: str) -> bytes:
    """The name of a container's session keyring: runc's."""
    return f"_ses.{container_id}".encode()


def cgroup_path(text: str) -> str:
    """`docker/<id>` and `/docker/<id>` alike lie below the root of each hierarchy; `a.slice:docker:<id>` is a scope of
    systemd's."""
    scope = scope_of(text)
    if scope is not None:
        return scope.path
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if ".." in parts or not parts:
        raise PortError("start", f"invalid cgroup path {text!r}", fault=Fault.INVALID)
    return "/" + "/".join(parts)


def process_plan(process: Mapping[str, Any], filter_: Filter) -> dict[str, Any]:
    user, sets = process.get("user") or {}, process.get("capabilities") or {}
    args = list(process.get("args") or ())
    if not args:
        raise PortError("start", "no command specified", fault=Fault.INVALID)
    return {
        "args": args,
        "env": list(process.get("env") or ()),
        "cwd": process.get("cwd") or "/",
        "make_cwd": False,
        "uid": user.get("uid", 0),
        "gid": user.get("gid", 0),
        "groups": list(user.get("additionalGids") or ()),
        "umask": user.get("umask", -1),
        "rlimits": [
            (getattr(resource, entry["type"], RLIMIT_LOCKS), entry["soft"], entry["hard"])
            for entry in process.get("rlimits") or ()
        ],
        "bounding": _capability_mask(sets.get("bounding") or ()),
        "effective": _capability_mask(sets.get("effective") or ()),
        "permitted": _capability_mask(sets.get("permitted") or ()),
        "inheritable": _capability_mask(sets.get("inheritable") or ()),
        "ambient": _capability_mask(sets.get("ambient") or ()),
        "no_new_privileges": bool(process.get("noNewPrivileges")),
        "apparmor": process.get("apparmorProfile") or "",
        "seccomp": filter_.program,
        "seccomp_flags": filter_.flags,
        "seccomp_early": filter_.early,
    }


def _capability_mask(names: Iterable[str]) -> int:
    """The set as bits; a name that is not known here is a bug of the spec's builder."""
    return sum(1 << capabilities.ALL.index(name) for name in set(names))


def stdio_plan(stdio: Stdio, log: LogSpec) -> dict[str, Any]:
    """Raises PortError for a log whose options do not make sense for this container."""
    try:
        planned_log = log_plan(log)
    except ValueError as error:
        raise no_log(str(error)) from error
    return {
        "tty": stdio.tty,
        "open_stdin": stdio.open_stdin,
        "stdin_once": stdio.stdin_once,
        "height": stdio.height,
        "width": stdio.width,
        "log": planned_log,
    }


def devices(linux: Mapping[str, Any]) -> list[tuple[str, int, int, int, int, int]]:
    return [*DEFAULT_DEVICES, *(_device(d) for d in linux.get("devices") or ())]


def _brings_devices(mounts: Iterable[Mapping[str, Any]]) -> bool:
    """Whether the user's own tree lies on /dev: it may be the host's, and is left as it is (as runc)."""
    return any(entry["type"] == "bind" and entry["destination"].rstrip("/") == "/dev" for entry in mounts)


def _device(device: Mapping[str, Any]) -> tuple[str, int, int, int, int, int]:
    mode = DEVICE_TYPES[device["type"]] | device.get("fileMode", 0o666) & 0o7777
    return (
        device["path"],
        mode,
        device.get("major", 0),
        device.get("minor", 0),
        device.get("uid", 0),
        device.get("gid", 0),
    )


def _with_cgroups(entry: dict[str, Any], facts: HostFacts, path: str, namespaced: bool) -> dict[str, Any]:
    """A cgroup mount needs to know the host's hierarchies."""
    if entry["type"] != "cgroup":
        return entry
    links = [(h.name, c) for h in facts.hierarchies if len(h.controllers) > 1 for c in h.controllers]
    return entry | {
        "unified": facts.version == 2,
        "namespaced": namespaced,
        "hierarchies": [(h.name, h.options, h.mountpoint + path) for h in facts.hierarchies],
        "links": links,
    }
