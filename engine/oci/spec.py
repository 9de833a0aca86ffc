"""A container's OCI runtime spec, built from values alone: the native runtime and runc read the same one.

Owns Docker's defaults: mounts, masked paths, capabilities, devices, namespaces (SEC-01..03, 06..09, 12; CTR-37, 38).
Refuses to know: the host. Everything looked up there (user, devices, namespaces of others) comes in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from engine.aggregates.values import capabilities as caps
from engine.aggregates.values.config import ContainerConfig, HostConfig, Ulimit
from engine.aggregates.values.id_map import IdMap, IdRange
from engine.aggregates.values.mounts import MountPoint
from engine.aggregates.values.security import apparmor_profile, masked_paths, readonly_paths, security_option
from engine.aggregates.values.sysctls import dotted
from engine.oci import resources, seccomp
from engine.oci.resources import DeviceNode

OCI_VERSION = "1.0.2"
DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
INIT_PATH = "/sbin/docker-init"


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Who a process runs as, looked up in the container's own files."""

    uid: int = 0
    gid: int = 0
    additional_gids: tuple[int, ...] = ()
    home: str = "/"


class Shared(msgspec.Struct, frozen=True, kw_only=True):
    """Namespaces of others to join: paths under /proc, or "". shm: of the IPC donor's /dev/shm. host_network: none of
    its own."""

    user: str = ""
    pid: str = ""
    ipc: str = ""
    network: str = ""
    shm: str = ""
    host_network: bool = False


RECURSIVE_READ_ONLY = (5, 12)
"""The first kernel with mount_setattr(2): from then on, read-only includes what is mounted below (moby 25)."""


class HostTraits(msgspec.Struct, frozen=True, kw_only=True):
    """What of the host shapes every spec. kernel: (major, minor). profile: the default seccomp profile, None for
    unconfined. apparmor: whether profiles can be applied. id_map: of containers that have a user namespace, which are
    all but those with `--userns=host`; None for none. init_path: of the init binary for --init."""

    machine: str
    kernel: tuple[int, int]
    cgroup_v2: bool
    profile: Mapping[str, Any] | None
    apparmor: bool = False
    id_map: IdMap | None = None
    no_new_privileges: bool = False
    init: bool = False
    init_path: str = ""
    cgroup_driver: str = "cgroupfs"
    cgroup_parent: str = ""
    ulimits: tuple[Ulimit, ...] = ()


class SpecInput(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a spec is made of. env: in the clear. files: container path -> host path of generated files."""

    container_id: str
    config: ContainerConfig
    env: tuple[str, ...]
    host: HostConfig
    identity: Identity
    mounts: tuple[MountPoint, ...]
    files: Mapping[str, str]
    shared: Shared
    devices: tuple[DeviceNode, ...]
    traits: HostTraits
    device_numbers: resources.DeviceNumbers = {}


def build_spec(given: SpecInput) -> dict[str, Any]:
    """The whole spec. Raises Rejected(INVALID) for what only shows here (a bad device rule, a bad profile)."""
    host = given.host
    capability_names = capability_set(host)
    spec: dict[str, Any] = {
        "ociVersion": OCI_VERSION,
        "hostname": given.config.hostname if host.uts_mode != "host" else "",
        "root": {"path": "rootfs", "readonly": host.readonly_rootfs},
        "process": process(given, capability_names),
        "mounts": mounts(given),
        "linux": linux(given, capability_names),
    }
    if host.annotations:
        spec["annotations"] = dict(host.annotations)
    return spec


def capability_set(host: HostConfig, *, privileged: bool | None = None) -> tuple[str, ...]:
    """The capabilities of a container, in the kernel's order. Source: moby daemon/pkg/oci/caps TweakCapabilities."""
    if host.privileged if privileged is None else privileged:
        return caps.ALL
    add = caps.normalize(host.cap_add or (), "CapAdd")
    drop = caps.normalize(host.cap_drop or (), "CapDrop")
    if "ALL" in add:
        chosen = set(caps.ALL) - set(drop)
    elif "ALL" in drop:
        chosen = set(add)
    else:
        chosen = (set(caps.DEFAULT) - set(drop)) | set(add)
    return tuple(name for name in caps.ALL if name in chosen)


def process(given: SpecInput, capability_names: Sequence[str]) -> dict[str, Any]:
    host, config = given.host, given.config
    words = [*(config.entrypoint or ()), *(config.cmd or ())]
    if uses_init(given):
        words = [INIT_PATH, "--", *words]
    document: dict[str, Any] = {
        "args": words,
        "cwd": config.working_dir or "/",
        "env": environment(given.env, config.hostname, given.identity.home, tty=config.tty),
        "user": user(given.identity),
        "terminal": config.tty,
        "noNewPrivileges": no_new_privileges(host, given.traits),
        "capabilities": capability_sets(capability_names),
        "rlimits": rlimits(host.ulimits or (), given.traits.ulimits),
    }
    if host.oom_score_adj:
        document["oomScoreAdj"] = host.oom_score_adj
    if given.traits.apparmor:
        document["apparmorProfile"] = apparmor_profile(host)
    return document


def uses_init(given: SpecInput) -> bool:
    wanted = given.host.init if given.host.init is not None else given.traits.init
    shares_pids = given.host.pid_mode != ""
    return wanted and not shares_pids


def environment(env: Sequence[str], hostname: str, home: str, *, tty: bool) -> list[str]:
    """Docker's own variables first, the user's over them, HOME last unless given."""
    own = [DEFAULT_PATH, f"HOSTNAME={hostname}", *(["TERM=xterm"] if tty else [])]
    merged = {variable.partition("=")[0]: variable for variable in own}
    for variable in env:
        name, separator, _ = variable.partition("=")
        if separator:
            merged[name] = variable
        else:
            merged.pop(name, None)  # `-e NAME` without a value takes the variable away.
    merged.setdefault("HOME", f"HOME={home}")
    return list(merged.values())


def user(identity: Identity) -> dict[str, Any]:
    document: dict[str, Any] = {"uid": identity.uid, "gid": identity.gid}
    if identity.additional_gids:
        document["additionalGids"] = list(identity.additional_gids)
    return document


def capability_sets(names: Sequence[str]) -> dict[str, list[str]]:
    """No inheritable and no ambient ones: a program run as another user starts without."""
    listed = list(names)
    return {"bounding": listed, "effective": listed, "permitted": listed}


def rlimits(own: Sequence[Ulimit], defaults: Sequence[Ulimit]) -> list[dict[str, Any]]:
    """The container's limits, and the daemon's where it has none of that name."""
    merged = {limit.name: limit for limit in (*defaults, *own)}
    return [
        {"type": f"RLIMIT_{limit.name.upper()}", "soft": limit.soft, "hard": limit.hard} for limit in merged.values()
    ]


def no_new_privileges(host: HostConfig, traits: HostTraits) -> bool:
    for option in host.security_opt or ():
        name, _, value = option.replace(":", "=", 1).partition("=")
        if name == "no-new-privileges":
            return value != "false"
    return traits.no_new_privileges and not host.privileged


def mounts(given: SpecInput) -> list[dict[str, Any]]:
    """Docker's own mounts, generated files, then the user's from the shallowest destination to the deepest. A user's
    mount replaces the default at the same place."""
    taken = {point.destination for point in given.mounts} | set(given.host.tmpfs or {})
    found = [mount for mount in _defaults(given) if mount["destination"] not in taken]
    if "/dev" in taken:  # the user's own has its own of everything
        found = [mount for mount in found if not mount["destination"].startswith("/dev/")]
    above = [_mount(point, given.traits) for point in given.mounts]
    above += [_bind(path, source) for path, source in given.files.items() if path not in taken]
    if uses_init(given):
        source = given.traits.init_path
        above.append({"destination": INIT_PATH, "type": "bind", "source": source, "options": ["bind", "ro"]})
    # A volume at /etc has the container's own /etc/hosts in it, as moby's sort has it.
    return found + sorted(above, key=lambda mount: mount["destination"].count("/"))


def _defaults(given: SpecInput) -> list[dict[str, Any]]:
    read_only = [] if given.host.privileged else ["ro"]
    hardened = ["nosuid", "noexec", "nodev"]
    found: list[dict[str, Any]] = [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": hardened},
        {
            "destination": "/dev",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
        },
        {
            "destination": "/dev/pts",
            "type": "devpts",
            "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        },
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*hardened, *read_only]},
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": [*read_only, *hardened]},
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": hardened},
    ]
    if given.host.ipc_mode == "host":
        return [*found, _bind("/dev/shm", "/dev/shm")]  # noqa: S108 - the container's, not a temporary file
    if given.shared.shm:
        return [*found, _bind("/dev/shm", given.shared.shm)]  # noqa: S108 - as above
    if given.host.ipc_mode != "none":
        options = [*hardened, "mode=1777", f"size={given.host.shm_size}"]
        found.append({"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": options})  # noqa: S108 - as above
    return found


def _bind(destination: str, source: str) -> dict[str, Any]:
    return {"destination": destination, "type": "bind", "source": source, "options": ["rbind", "rprivate"]}


def _mount(point: MountPoint, traits: HostTraits) -> dict[str, Any]:
    if point.type == "tmpfs":
        options = ["nosuid", "nodev", "noexec", *([] if point.rw else ["ro"]), *point.options]
        return {"destination": point.destination, "type": "tmpfs", "source": "tmpfs", "options": options}
    options = ["bind" if point.non_recursive else "rbind", point.propagation or "rprivate"]
    if not point.rw:
        options.append("ro")
        if traits.kernel >= RECURSIVE_READ_ONLY and not point.read_only_non_recursive:
            options.append("rro")
    return {
        "destination": point.destination,
        "type": "bind",
        "source": point.source,
        "options": options,
        # Not of the specification: only the native runtime can resolve the one safely and put the other together.
        **({"subpath": point.subpath} if point.subpath else {}),
        **({"lowers": list(point.lowers)} if point.lowers else {}),
    }


def rootfs_propagation(mounts: Sequence[MountPoint]) -> str:
    """What the container's root must be so that a mount's own propagation can work: `shared`, `rslave` or ""."""
    asked = {point.propagation for point in mounts if point.type == "bind"}
    if asked & {"shared", "rshared"}:
        return "shared"
    return "rslave" if asked & {"slave", "rslave"} else ""


def sysctls(given: SpecInput) -> dict[str, str]:
    """The domain name is one of them, as in moby: the field of its own came late to the specification, and a runtime
    that does not know it leaves it out without a word."""
    named = given.config.domainname and given.host.uts_mode != "host"
    domain = {"kernel.domainname": given.config.domainname} if named else {}
    return {**domain, **{dotted(name): value for name, value in (given.host.sysctls or {}).items()}}


def linux(given: SpecInput, capability_names: Sequence[str]) -> dict[str, Any]:
    host = given.host
    rules = resources.device_rules(host.device_cgroup_rules or (), given.devices, privileged=host.privileged)
    document: dict[str, Any] = {
        "cgroupsPath": cgroup_path(given),
        "namespaces": namespaces(given),
        "resources": {**resources.limits(host, given.device_numbers), "devices": rules},
        "devices": [_device(node) for node in given.devices],
        "sysctl": sysctls(given),
    }
    if given.traits.id_map is not None and is_remapped(host, given.traits):
        document["uidMappings"] = _mappings(given.traits.id_map.uids)
        document["gidMappings"] = _mappings(given.traits.id_map.gids)
    propagation = rootfs_propagation(given.mounts)
    if propagation:
        document["rootfsPropagation"] = propagation
    document["maskedPaths"] = list(masked_paths(host))
    document["readonlyPaths"] = list(readonly_paths(host))
    profile = seccomp_profile(host, given.traits)
    if profile is not None:
        traits = given.traits
        document["seccomp"] = seccomp.for_process(profile, frozenset(capability_names), traits.machine, traits.kernel)
    return document


def is_remapped(host: HostConfig, traits: HostTraits) -> bool:
    """Whether the container's root is another user of the host (SEC-10)."""
    return traits.id_map is not None and host.userns_mode != "host"


def _mappings(ranges: Sequence[IdRange]) -> list[dict[str, int]]:
    return [{"containerID": each.inside, "hostID": each.outside, "size": each.size} for each in ranges]


def seccomp_profile(host: HostConfig, traits: HostTraits) -> Mapping[str, Any] | None:
    """The profile that applies: the option's, none for the privileged, else the daemon's."""
    option = security_option(host, "seccomp")
    if option == "unconfined" or (host.privileged and not option):
        return None
    if option and option != "builtin":
        return seccomp.load(option)
    return traits.profile


def cgroup_path(given: SpecInput) -> str:
    """A path, or in runc's form the slice, prefix and name of a systemd scope (RES-01)."""
    parent = given.host.cgroup_parent or given.traits.cgroup_parent
    if given.traits.cgroup_driver == "systemd":
        return f"{parent or 'system.slice'}:docker:{given.container_id}"
    parent = parent or "/docker"
    return f"{parent.rstrip('/')}/{given.container_id}"


def namespaces(given: SpecInput) -> list[dict[str, str]]:
    """Own ones, joined ones (with a path), and none where the host's is meant."""
    host, shared = given.host, given.shared
    found = [{"type": "mount"}]
    if is_remapped(host, given.traits):
        found.insert(0, _namespace("user", shared.user))
    if host.uts_mode != "host":
        found.append({"type": "uts"})
    if not shared.host_network:
        found.append(_namespace("network", shared.network))
    if host.pid_mode != "host":
        found.append(_namespace("pid", shared.pid))
    if host.ipc_mode != "host":
        found.append(_namespace("ipc", shared.ipc))
    if host.cgroupns_mode == "private":
        found.append({"type": "cgroup"})
    return found


def _namespace(kind: str, path: str) -> dict[str, str]:
    return {"type": kind, "path": path} if path else {"type": kind}


def _device(node: DeviceNode) -> dict[str, Any]:
    return {
        "path": node.path,
        "type": node.kind,
        "major": node.major,
        "minor": node.minor,
        "fileMode": node.mode,
        "uid": node.uid,
        "gid": node.gid,
    }
