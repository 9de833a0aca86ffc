"""Which configurations are legal (CTR-07), in moby's words.

Pure: facts about the host come in. Nothing is silently ignored: what this engine cannot do is refused here. Limits have
rules of their own (resource_rules.py).
Source: moby daemon/container.go, daemon/daemon_unix.go verifyPlatformContainerSettings, runconfig/hostconfig_unix.go.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from engine.aggregates.container.resource_rules import ResourceFacts, admitted
from engine.aggregates.decider import Reason, Rejected
from engine.aggregates.values import capabilities, console
from engine.aggregates.values.config import ContainerConfig, HealthConfig, HostConfig, RestartPolicy
from engine.aggregates.values.etc_files import parse_extra_host
from engine.aggregates.values.signals import parse_signal
from engine.aggregates.values.subnet import parse_mac_address
from engine.aggregates.values.sysctls import dotted, sysctl_path

HEALTH_NS_MIN = 1_000_000
HOSTNAME_LENGTH_MAX = 64
NETNS_SYSCTL = "net."
IPC_SYSCTLS = frozenset(
    {"kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax", "kernel.shmmni"}
    | {"kernel.shm_rmid_forced"}
)


HOST_NETWORK_AND_LINKS = (
    "conflicting options: host type networking can't be used with links. This would result in undefined behavior"
)
ANY_GATEWAY = ("192.0.2.1",)
"""Stands for the host's address, which is not known before the start."""


class RuleFacts(ResourceFacts, frozen=True, kw_only=True):
    """What the rules need to know of the host and of the engine's configuration."""

    runtimes: frozenset[str] = frozenset({"native"})
    cgroup_v2: bool = False
    remapped: bool = False
    quotas: bool = False
    """Whether a read-write layer can be limited."""
    volume_quotas: bool = False
    """Whether a volume can be limited."""
    cgroup_driver: str = "cgroupfs"
    ip_forwarding: bool = True


def check(config: ContainerConfig, host: HostConfig, facts: RuleFacts) -> tuple[HostConfig, tuple[str, ...]]:
    """(the configuration without what this host cannot do, warnings about that). Raises Rejected for the first rule
    that is broken."""
    _check_config(config)
    check_restart_policy(host.restart_policy)
    if host.auto_remove and host.restart_policy.name not in ("", "no"):
        _invalid("can't create 'AutoRemove' container with restart policy")
    capabilities.normalize(host.cap_add or (), "CapAdd")
    capabilities.normalize(host.cap_drop or (), "CapDrop")
    if any(not key for key in host.annotations or {}):
        _invalid("invalid Annotations: the empty string is not permitted as an annotation key")
    host, warnings = admitted(host, facts)
    _check_modes(host)
    check_cgroup_parent(host.cgroup_parent, facts.cgroup_driver)
    for entry in host.extra_hosts or ():
        parse_extra_host(entry, ANY_GATEWAY)
    for server in filter(None, host.dns or ()):
        _check_name_server(server)
    _check_security(host)
    if facts.remapped and host.userns_mode != "host":
        _check_remapped(host)
    _check_sysctls(host)
    _check_absent(host, facts)
    return host, (*warnings, *_network_warnings(host, facts))


def _check_name_server(text: str) -> None:
    """Source: Go's netip.ParseAddr, by which moby reads them."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        _invalid(f'ParseAddr("{text}"): unable to parse IP')


def _network_warnings(host: HostConfig, facts: RuleFacts) -> list[str]:
    warnings = []
    if not facts.ip_forwarding and host.network_mode not in ("host", "none"):
        warnings.append("IPv4 forwarding is disabled. Networking will not work.")
    if host.network_mode == "host" and host.port_bindings:
        warnings.append("Published ports are discarded when using host network mode")
    return warnings


def check_cgroup_parent(parent: str, driver: str) -> None:
    """systemd puts scopes into slices and nowhere else. Raises Rejected(INVALID)."""
    if parent and driver == "systemd" and (len(parent) <= len(".slice") or not parent.endswith(".slice")):
        _invalid('cgroup-parent for systemd cgroup should be a valid slice named as "xxx.slice"')


def _invalid(message: str) -> None:
    raise Rejected(Reason.INVALID, message)


def _absent(message: str) -> None:
    raise Rejected(Reason.NOT_IMPLEMENTED, message)


def check_environment(env: Sequence[str]) -> None:
    """Every variable has a name. Raises Rejected(INVALID)."""
    for variable in env:
        if not variable.partition("=")[0]:
            _invalid(f"invalid environment variable: {variable}")


def _check_config(config: ContainerConfig) -> None:
    if len(config.hostname) > HOSTNAME_LENGTH_MAX:
        _invalid(f"invalid hostname: {config.hostname}")
    if config.working_dir and not config.working_dir.startswith("/"):
        _invalid(f"the working directory '{config.working_dir}' is invalid, it needs to be an absolute path")
    if config.stop_signal:
        parse_signal(config.stop_signal)
    check_environment(config.env or ())
    if config.healthcheck is not None:
        _check_health(config.healthcheck)


def _check_health(health: HealthConfig) -> None:
    for name, value in (
        ("Interval", health.interval),
        ("Timeout", health.timeout),
        ("StartPeriod", health.start_period),
        ("StartInterval", health.start_interval),
    ):
        if value and value < HEALTH_NS_MIN:
            _invalid(f"{name} in Healthcheck cannot be less than 1ms")
    if health.retries < 0:
        _invalid("Retries in Healthcheck cannot be negative")
    if health.test and health.test[0] not in ("NONE", "CMD", "CMD-SHELL", ""):
        _invalid(f"Unknown healthcheck type '{health.test[0]}' (expected 'CMD')")


def _check_storage(host: HostConfig, facts: RuleFacts) -> None:
    """Source: moby daemon/graphdriver/overlay2/overlay.go."""
    for key in host.storage_opt or {}:
        if key.lower() != "size":
            _invalid(f"Unknown option {key}")
        if not facts.quotas:
            _invalid("--storage-opt is supported only for overlay over xfs with 'pquota' mount option")
    try:
        _ = host.limit_bytes
    except ValueError as error:
        _invalid(str(error))


def check_restart_policy(policy: RestartPolicy) -> None:
    """Raises Rejected(INVALID) for an unknown policy or a count where none belongs."""
    count = policy.maximum_retry_count
    match policy.name:
        case "always" | "no" | "unless-stopped" if count != 0:
            words = "invalid restart policy: maximum retry count can only be used with 'on-failure'"
            _invalid(words + (" and cannot be negative" if count < 0 else ""))
        case "on-failure" if count < 0:
            _invalid("invalid restart policy: maximum retry count cannot be negative")
        case "" | "always" | "no" | "unless-stopped" | "on-failure":
            return
        case _:
            _invalid(
                f"invalid restart policy: unknown policy '{policy.name}'; "
                "use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
            )


def _check_modes(host: HostConfig) -> None:
    _one_of(host.ipc_mode, {"", "none", "private", "shareable", "host"}, "IPC", container=True)
    _one_of(host.pid_mode, {"", "host"}, "PID", container=True)
    _one_of(host.uts_mode, {"", "host"}, "UTS", container=False)
    if host.cgroupns_mode not in ("", "host", "private"):
        _invalid(f"invalid cgroup namespace mode: {host.cgroupns_mode}")
    if host.isolation not in ("", "default"):
        _invalid(f'invalid isolation "{host.isolation}" on linux')
    if host.shm_size < 0:
        _invalid("SHM size can not be less than 0")
    console.check_size(host.console_size or (0, 0))
    if not -1000 <= host.oom_score_adj <= 1000:
        _invalid(f"Invalid value {host.oom_score_adj}, range for oom score adj is [-1000, 1000]")


def check_namespaces(config: ContainerConfig, host: HostConfig) -> None:
    """What does not go with a namespace that is somebody else's. config: as it is asked for, without the image's: an
    image that exposes ports may share a network. Raises Rejected(INVALID). Source: moby daemon/internal/runconfig
    validateNetMode."""
    if host.uts_mode == "host" and config.hostname:
        _invalid("conflicting options: hostname and the UTS mode")
    if host.network_mode == "host" and host.links:
        _invalid(HOST_NETWORK_AND_LINKS)
    if host.network_mode.startswith("container:"):
        _check_shared_network(config, host)
    if config.mac_address and (host.network_mode in ("host", "none") or host.network_mode.startswith("container:")):
        _invalid("conflicting options: mac-address and the network mode")
    if config.mac_address:
        parse_mac_address(config.mac_address)


def _one_of(value: str, allowed: set[str], name: str, *, container: bool) -> None:
    if value in allowed or (container and value.startswith("container:") and value != "container:"):
        return
    _invalid(f"invalid {name} mode: {value}")


def _check_shared_network(config: ContainerConfig, host: HostConfig) -> None:
    kind = "the container type network mode"
    for given, words in (
        (host.network_mode == "container:", "invalid container format container:<name|id>"),
        (bool(config.hostname), "conflicting options: hostname and the network mode"),
        (
            bool(host.links),
            "conflicting options: container type network can't be used with links. This would result in undefined "
            "behavior",
        ),
        (bool(host.dns), "conflicting options: dns and the network mode"),
        (bool(host.extra_hosts), "conflicting options: custom host-to-IP mapping and the network mode"),
        (bool(host.port_bindings) or host.publish_all_ports, f"conflicting options: port publishing and {kind}"),
        (bool(config.exposed_ports), f"conflicting options: port exposing and {kind}"),
    ):
        if given:
            _invalid(words)


def _check_security(host: HostConfig) -> None:
    for option in host.security_opt or ():
        name, separator, value = option.partition("=")
        if not separator:
            name, separator, value = option.partition(":")
        match name:
            case "no-new-privileges" if value in ("", "true", "false"):
                continue
            case "seccomp" | "apparmor" if value:
                continue
            case "systempaths" if value == "unconfined":
                continue
            case "label" if value:
                # Without SELinux labels mean nothing; dockerd takes them too, unless --selinux-enabled (SEC-05).
                continue
            case _:
                _invalid(f'invalid --security-opt: "{option}"')


def _check_remapped(host: HostConfig) -> None:
    """SEC-10. Source: moby daemon/daemon_unix.go verifyPlatformContainerSettings."""
    if host.privileged:
        _invalid(
            "privileged mode is incompatible with user namespaces.  You must run the container in the host namespace "
            "when running privileged mode"
        )
    if host.network_mode == "host":
        _invalid("cannot share the host's network namespace when user namespaces are enabled")
    if host.pid_mode == "host":
        _invalid("cannot share the host PID namespace when user namespaces are enabled")
    if any(mount.type == "image" for mount in host.mounts or ()):
        _absent("mounts of type image are not implemented with user namespaces: use --userns=host")


def _check_sysctls(host: HostConfig) -> None:
    """RES-07: only what a namespace of the container's own has. Source: runc libcontainer/configs/validate."""
    for given in host.sysctls or {}:
        name = dotted(given)
        sysctl_path(name)
        if name.startswith(NETNS_SYSCTL):
            if host.network_mode == "host":
                _invalid(f'sysctl "{name}" not allowed in host network namespace')
        elif name in IPC_SYSCTLS or name.startswith("fs.mqueue."):
            if host.ipc_mode == "host":
                _invalid(f'sysctl "{name}" is not allowed in the hosts ipc namespace')
        elif name == "kernel.hostname" and host.uts_mode != "host":
            _invalid(f'sysctl "{name}" is not allowed as it conflicts with the OCI "hostname" field')
        elif name != "kernel.domainname" or host.uts_mode == "host":
            _invalid(f'sysctl "{name}" is not in a separate kernel namespace')


def _check_absent(host: HostConfig, facts: RuleFacts) -> None:
    """Options this engine has not got: said, never ignored."""
    if host.runtime and host.runtime not in facts.runtimes:
        _invalid(f"unknown or invalid runtime name: {host.runtime}")
    if host.userns_mode not in ("", "host"):
        _invalid(f"invalid USER mode: {host.userns_mode}")
    for request in host.device_requests or ():
        # Neither a driver for GPUs nor CDI is registered here (CTR-43).
        wanted = " ".join(f"[{' '.join(group)}]" for group in request.capabilities or ())
        _invalid(f'could not select device driver "{request.driver}" with capabilities: [{wanted}]')
    _check_storage(host, facts)
    for mount in host.mounts or ():
        if mount.bind_options is not None and mount.bind_options.read_only_force_recursive:
            _absent("forcing recursive read-only mounts is not implemented")
