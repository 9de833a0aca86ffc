"""`/version` and `/info` in Docker's shape.

Source: Engine API `SystemVersion`, `SystemInfo`; moby daemon/info.go, info_unix.go; version gates as in
daemon/server/router/system/system_routes.go.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

import msgspec

from engine.aggregates.container.log_options import DRIVERS
from engine.api import versions
from engine.api.shapes.times import rfc3339_nano
from engine.config import DaemonConfig
from engine.drivers.ports.host import HostFacts
from engine.proxies import masked

INDEX_SERVER = "https://index.docker.io/v1/"
LOG_DRIVERS = tuple(sorted(DRIVERS))
NETWORK_DRIVERS = ("bridge", "host", "ipvlan", "macvlan", "null")
VOLUME_DRIVERS = ("local",)
INSECURE_BY_NATURE = ("::1/128", "127.0.0.0/8")

_LIMIT_KEYS = {
    "MemoryLimit": "memory",
    "SwapLimit": "swap",
    "CpuCfsPeriod": "cfs",
    "CpuCfsQuota": "cfs",
    "CPUShares": "shares",
    "CPUSet": "cpuset",
    "PidsLimit": "pids",
    "OomKillDisable": "oom-kill-disable",
}


class InfoFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What `/info` is made of. containers: running, paused, stopped. tasks: of the event loop. listeners: clients
    that follow `/events`. file_system: that the data root is on, in Docker's words. init_path: of the binary that
    `--init` runs. damage: sentences about what is lost."""

    host: HostFacts
    config: DaemonConfig
    engine_id: str
    now_ns: int
    containers: tuple[int, int, int]
    images: int
    file_system: str
    tasks: int
    listeners: int
    init_path: str = ""
    damage: tuple[str, ...] = ()


def version(host: HostFacts) -> dict[str, Any]:
    details = {
        "ApiVersion": versions.render(versions.API_VERSION_MAX),
        "Arch": host.architecture,
        "BuildTime": "",
        "Experimental": "false",
        "GitCommit": "",
        "GoVersion": "",
        "KernelVersion": host.kernel_version,
        "MinAPIVersion": versions.render(versions.API_VERSION_MIN),
        "Os": "linux",
    }
    return {
        "Platform": {"Name": "Ishmael"},
        "Version": versions.ENGINE_VERSION,
        "ApiVersion": versions.render(versions.API_VERSION_MAX),
        "MinAPIVersion": versions.render(versions.API_VERSION_MIN),
        "Os": "linux",
        "Arch": host.architecture,
        "KernelVersion": host.kernel_version,
        "Components": [
            {"Name": "Engine", "Version": versions.ENGINE_VERSION, "Details": details},
            {"Name": "Python", "Version": sys.version.split()[0], "Details": {}},
        ],
        # Clients print these as they are; there is neither a build nor Go behind this engine.
        "GitCommit": "",
        "GoVersion": f"none (Python {sys.version.split()[0]})",
        "BuildTime": "",
    }


def info(facts: InfoFacts, api_version: versions.ApiVersion) -> dict[str, Any]:
    host, config = facts.host, facts.config
    running, paused, stopped = facts.containers
    return {
        "ID": facts.engine_id,
        "Containers": running + paused + stopped,
        "ContainersRunning": running,
        "ContainersPaused": paused,
        "ContainersStopped": stopped,
        "Images": facts.images,
        "Driver": config.storage_driver,
        "DriverStatus": driver_status(facts),
        "Plugins": {
            "Volume": list(VOLUME_DRIVERS),
            "Network": list(NETWORK_DRIVERS),
            "Authorization": None,
            "Log": list(LOG_DRIVERS),
        },
        **{key: limit in host.limits for key, limit in _LIMIT_KEYS.items()},
        "IPv4Forwarding": host.ip_forwarding,
        "Debug": config.debug,
        "NFd": host.open_files,
        "NGoroutines": facts.tasks,  # what an event loop has in their place
        "SystemTime": rfc3339_nano(facts.now_ns),
        "LoggingDriver": config.log_driver,
        "CgroupDriver": config.cgroup_driver,
        "CgroupVersion": host.cgroup_version,
        "NEventsListener": facts.listeners,
        "KernelVersion": host.kernel_version,
        "OperatingSystem": host.operating_system,
        "OSVersion": host.os_version,
        "OSType": "linux",
        "Architecture": host.machine,
        "IndexServerAddress": INDEX_SERVER,
        "RegistryConfig": registry_config(config, api_version),
        "NCPU": host.cpus,
        "MemTotal": host.memory_bytes,
        "GenericResources": None,
        "DockerRootDir": config.data_root,
        **proxies(os.environ),
        "Name": host.name,
        "Labels": list(config.labels),
        "ExperimentalBuild": False,
        "ServerVersion": versions.ENGINE_VERSION,
        "Runtimes": runtimes(config, api_version),
        "DefaultRuntime": config.default_runtime,
        "Swarm": {
            "NodeID": "",
            "NodeAddr": "",
            "LocalNodeState": "inactive",
            "ControlAvailable": False,
            "Error": "",
            "RemoteManagers": None,
        },
        "LiveRestoreEnabled": config.live_restore,
        "Isolation": "",
        "InitBinary": facts.init_path,
        "ContainerdCommit": commit(api_version),
        "RuncCommit": commit(api_version),
        "InitCommit": commit(api_version),
        "SecurityOptions": security_options(facts),
        "DefaultAddressPools": [{"Base": pool.base, "Size": pool.size} for pool in config.default_address_pools],
        "CDISpecDirs": [],
        "Warnings": warnings(facts),
        **gated(api_version),
    }


def gated(api_version: versions.ApiVersion) -> dict[str, Any]:
    """Keys that only one side of a version has."""
    keys: dict[str, Any] = {}
    if api_version >= (1, 49):
        keys["FirewallBackend"] = {"Driver": "nftables"}
    if api_version >= (1, 50):
        keys["DiscoveredDevices"] = []
    else:
        keys |= {"BridgeNfIptables": False, "BridgeNfIp6tables": False}
    return keys


def registry_config(config: DaemonConfig, api_version: versions.ApiVersion) -> dict[str, Any]:
    """Networks among the insecure registries are told apart from names, as the CLI prints them."""
    networks = [entry for entry in config.insecure_registries if "/" in entry]
    names = [entry for entry in config.insecure_registries if "/" not in entry]
    hub = {"Name": "docker.io", "Mirrors": list(config.registry_mirrors), "Secure": True, "Official": True}
    index = {name: {"Name": name, "Mirrors": [], "Secure": False, "Official": False} for name in names}
    shape: dict[str, Any] = {
        "IndexConfigs": {"docker.io": hub, **index},
        "InsecureRegistryCIDRs": [*INSECURE_BY_NATURE, *networks],
        "Mirrors": list(config.registry_mirrors),
    }
    if api_version < (1, 48):
        shape |= {"AllowNondistributableArtifactsCIDRs": [], "AllowNondistributableArtifactsHostnames": []}
    return shape


def runtimes(config: DaemonConfig, api_version: versions.ApiVersion) -> dict[str, Any]:
    shape: dict[str, dict[str, Any]] = {"native": {"path": "native"}}
    for name, runtime in config.runtimes.items():
        shape[name] = {"path": runtime.path}
        if runtime.runtime_args:
            shape[name]["runtimeArgs"] = list(runtime.runtime_args)
    if api_version >= (1, 44):
        for entry in shape.values():
            entry["status"] = {}
    return shape


def driver_status(facts: InfoFacts) -> list[tuple[str, str]] | None:
    """What `docker info` prints under the storage driver."""
    if facts.config.storage_driver != "overlay2":
        return None
    return [("Backing Filesystem", facts.file_system), ("Supports d_type", "true"), ("userxattr", "false")]


def security_options(facts: InfoFacts) -> list[str]:
    """`name=seccomp,profile=builtin`, `name=cgroupns`, ... (SEC-13)."""
    options = []
    if "apparmor" in facts.host.security:
        options.append("name=apparmor")
    if "seccomp" in facts.host.security:
        options.append(f"name=seccomp,profile={facts.config.seccomp_profile}")
    if facts.config.userns_remap:
        options.append("name=userns")
    if "cgroupns" in facts.host.security:
        options.append("name=cgroupns")
    if facts.config.no_new_privileges:
        options.append("name=no-new-privileges")
    return options


V1_IS_OLD = (
    "WARNING: Support for cgroup v1 is deprecated and planned to be removed by no later than May 2029 "
    "(https://github.com/moby/moby/issues/51111)"
)


def warnings(facts: InfoFacts) -> list[str]:
    """What the CLI prints below `docker info`, in moby's words; damage, which moby does not know, comes first."""
    unified = facts.host.cgroup_version == "2"
    missing = [("memory", "No memory limit support"), ("swap", "No swap limit support")]
    if not unified:
        missing.append(("oom-kill-disable", "No oom kill disable support"))
    missing += [
        ("cfs", "No cpu cfs quota support"),
        ("cfs", "No cpu cfs period support"),
        ("shares", "No cpu shares support"),
        ("cpuset", "No cpuset support"),
        ("pids", "No pids limit support"),
    ]
    if unified:
        missing.append(("blkio-weight", "No io.weight support"))
        missing.append(("blkio-weight-device", "No io.weight (per device) support"))
    for limit, word, file in (
        ("blkio-read-bps", "rbps", "read_bps_device"),
        ("blkio-write-bps", "wbps", "write_bps_device"),
        ("blkio-read-iops", "riops", "read_iops_device"),
        ("blkio-write-iops", "wiops", "write_iops_device"),
    ):
        missing.append((limit, f"No io.max ({word}) support" if unified else f"No blkio throttle.{file} support"))
    found = [f"WARNING: {words}" for words in facts.damage]
    found += [f"WARNING: {words}" for limit, words in missing if limit not in facts.host.limits]
    if not unified:
        found.append(V1_IS_OLD)
    if not facts.host.ip_forwarding:
        found.append("WARNING: IPv4 forwarding is disabled")
    for host in facts.config.hosts:
        if host.startswith("tcp://"):
            found.append(
                f"WARNING: API is accessible on http://{host.removeprefix('tcp://')} without encryption.\n"
                "         Access to the remote API is equivalent to root access on the host. Refer\n"
                "         to the 'Docker daemon attack surface' section in the documentation for\n"
                "         more information: https://docs.docker.com/go/attack-surface/"
            )
    return found


def commit(api_version: versions.ApiVersion) -> dict[str, str]:
    """Of a program that takes no part here: Docker's shape with nothing in it."""
    return {"ID": "", "Expected": ""} if api_version < (1, 49) else {"ID": ""}


def proxies(environment: Mapping[str, str]) -> dict[str, str]:
    """The proxies that pulls go through: the environment's (engine/proxies.py)."""
    return {
        "HttpProxy": masked(environment.get("HTTP_PROXY", "")),
        "HttpsProxy": masked(environment.get("HTTPS_PROXY", "")),
        "NoProxy": environment.get("NO_PROXY", ""),
    }
