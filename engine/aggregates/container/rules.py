"""Which configurations are legal (CTR-07, RES-01..08), in moby's words.

Pure: facts about the host come in. Nothing is silently ignored: what this engine cannot do is refused here.
Source: moby daemon/container.go, daemon/daemon_unix.go verifyPlatformContainerSettings, runconfig/hostconfig_unix.go.
"""

from __future__ import annotations

import msgspec

from engine.aggregates.decider import Reason, Rejected
from engine.aggregates.values import capabilities
from engine.aggregates.values.config import ContainerConfig, HealthConfig, HostConfig, Resources, RestartPolicy
from engine.aggregates.values.signals import parse_signal

MIB = 1 << 20
MEMORY_MIN = 6 * MIB
HEALTH_NS_MIN = 1_000_000
HOSTNAME_LENGTH_MAX = 64
NETNS_SYSCTL = "net."
IPC_SYSCTLS = frozenset(
    {"kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax", "kernel.shmmni"}
    | {"kernel.shm_rmid_forced"}
)


class RuleFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the rules need to know of the host. cpus, mems: numbers of those online."""

    cpus: frozenset[int]
    mems: frozenset[int] = frozenset({0})
    runtimes: frozenset[str] = frozenset({"native"})
    log_drivers: frozenset[str] = frozenset({"json-file", "none"})
    cgroup_v2: bool = False


def check(config: ContainerConfig, host: HostConfig, facts: RuleFacts) -> None:
    """Raises Rejected for the first rule that is broken."""
    _check_config(config)
    check_restart_policy(host.restart_policy)
    if host.auto_remove and host.restart_policy.name not in ("", "no"):
        _invalid("can't create 'AutoRemove' container with restart policy")
    capabilities.normalize(host.cap_add or (), "CapAdd")
    capabilities.normalize(host.cap_drop or (), "CapDrop")
    if any(not key for key in host.annotations or {}):
        _invalid("invalid Annotation: the empty string is not permitted as an annotation key")
    check_resources(host, facts)
    _check_modes(config, host)
    _check_security(host)
    _check_sysctls(host)
    _check_absent(host, facts)


def _invalid(message: str) -> None:
    raise Rejected(Reason.INVALID, message)


def _absent(message: str) -> None:
    raise Rejected(Reason.NOT_IMPLEMENTED, message)


def _check_config(config: ContainerConfig) -> None:
    if len(config.hostname) > HOSTNAME_LENGTH_MAX:
        _invalid(f"invalid hostname: {config.hostname}")
    if config.working_dir and not config.working_dir.startswith("/"):
        _invalid(f"the working directory '{config.working_dir}' is invalid, it needs to be an absolute path")
    if config.stop_signal:
        parse_signal(config.stop_signal)
    for variable in config.env or ():
        if not variable.partition("=")[0]:
            _invalid(f"invalid environment variable: {variable}")
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


def check_resources(host: Resources, facts: RuleFacts) -> None:
    """Limits that no kernel would take, or that contradict each other."""
    _check_memory(host)
    _check_cpu(host, facts)
    if host.blkio_weight and not 10 <= host.blkio_weight <= 1000:
        _invalid("Range of blkio weight is from 10 to 1000")
    for device in host.blkio_weight_device or ():
        if device.weight and not 10 <= device.weight <= 1000:
            _invalid("Range of blkio weight is from 10 to 1000")
    for limit in host.ulimits or ():
        if limit.soft > limit.hard >= 0:
            _invalid(f"ulimit soft limit must be less than or equal to hard limit: {limit.soft} > {limit.hard}")


def _check_memory(host: Resources) -> None:
    if host.memory and host.memory < MEMORY_MIN:
        _invalid("Minimum memory limit allowed is 6MB")
    if host.memory > 0 and 0 < host.memory_swap < host.memory:
        _invalid("Minimum memoryswap limit should be larger than memory limit, see usage")
    if host.memory == 0 and host.memory_swap > 0:
        _invalid("You should always set the Memory limit when using Memoryswap limit, see usage")
    swappiness = host.memory_swappiness
    if swappiness is not None and swappiness != -1 and not 0 <= swappiness <= 100:
        _invalid(f"Invalid value: {swappiness}, valid memory swappiness range is 0-100")
    if 0 < host.memory_reservation < MEMORY_MIN:
        _invalid("Minimum memory reservation allowed is 6MB")
    if host.memory > 0 and host.memory_reservation > host.memory:
        _invalid("Minimum memory limit can not be less than memory reservation limit, see usage")


def _check_cpu(host: Resources, facts: RuleFacts) -> None:
    if host.nano_cpus and host.cpu_period:
        _invalid("Conflicting options: Nano CPUs and CPU Period cannot both be set")
    if host.nano_cpus and host.cpu_quota:
        _invalid("Conflicting options: Nano CPUs and CPU Quota cannot both be set")
    count = len(facts.cpus)
    if host.nano_cpus and not 10_000_000 <= host.nano_cpus <= count * 1_000_000_000:
        _invalid(f"range of CPUs is from 0.01 to {count}.00, as there are only {count} CPUs available")
    if host.cpu_shares < 0:
        _invalid(f"invalid CPU shares ({host.cpu_shares}): value must be a positive integer")
    if host.cpu_period and not 1000 <= host.cpu_period <= 1_000_000:
        _invalid("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
    if 0 < host.cpu_quota < 1000:
        _invalid("CPU cfs quota can not be less than 1ms (i.e. 1000)")
    if host.cpu_realtime_period or host.cpu_realtime_runtime:
        _invalid("Your kernel does not support CPU real-time scheduler")
    for wanted, have, name in (
        (host.cpuset_cpus, facts.cpus, "CPUs"),
        (host.cpuset_mems, facts.mems, "memory nodes"),
    ):
        missing = _cpuset(wanted, name) - have
        if missing:
            available = _ranges(have)
            _invalid(f"Requested {name} are not available - requested {wanted}, available: {available}")


def _cpuset(text: str, name: str) -> set[int]:
    """`0-2,4` as numbers."""
    found: set[int] = set()
    for part in filter(None, text.split(",")):
        first, dash, last = part.partition("-")
        if (
            not first.isdecimal()
            or (dash and not last.isdecimal())
            or int(last or first) - int(first) not in range(8192)
        ):
            word = "cpus" if name == "CPUs" else "mems"
            _invalid(f"Invalid value {text} for cpuset {word}")
        found.update(range(int(first), int(last or first) + 1))
    return found


def _ranges(numbers: frozenset[int]) -> str:
    ordered = sorted(numbers)
    contiguous = ordered == list(range(ordered[0], ordered[-1] + 1)) if ordered else False
    if contiguous and len(ordered) > 1:
        return f"{ordered[0]}-{ordered[-1]}"
    return ",".join(map(str, ordered))


def _check_modes(config: ContainerConfig, host: HostConfig) -> None:
    _one_of(host.ipc_mode, {"", "none", "private", "shareable", "host"}, "IPC", container=True)
    _one_of(host.pid_mode, {"", "host"}, "PID", container=True)
    _one_of(host.uts_mode, {"", "host"}, "UTS", container=False)
    if host.cgroupns_mode not in ("", "host", "private"):
        _invalid(f"invalid cgroup namespace mode: {host.cgroupns_mode}")
    if host.isolation not in ("", "default"):
        _invalid(f'invalid isolation "{host.isolation}" on linux')
    if host.shm_size < 0:
        _invalid("SHM size can not be less than 0")
    if not -1000 <= host.oom_score_adj <= 1000:
        _invalid(f"Invalid value {host.oom_score_adj}, range for oom score adj is [-1000, 1000]")
    if host.uts_mode == "host" and config.hostname:
        _invalid("conflicting options: hostname and the UTS mode")
    if host.network_mode.startswith("container:"):
        _check_shared_network(config, host)


def _one_of(value: str, allowed: set[str], name: str, *, container: bool) -> None:
    if value in allowed or (container and value.startswith("container:") and value != "container:"):
        return
    _invalid(f"invalid {name} mode: {value}")


def _check_shared_network(config: ContainerConfig, host: HostConfig) -> None:
    kind = "the container type network mode"
    for given, words in (
        (host.network_mode == "container:", "invalid container format container:<name|id>"),
        (bool(config.hostname), "conflicting options: hostname and the network mode"),
        (bool(host.links), f"conflicting options: {kind} can't be used with links"),
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
            case "seccomp" | "apparmor" | "systempaths" if value:
                continue
            case "label" if value == "disable":
                continue
            case "label":
                _invalid("SELinux labels are not supported by this engine: use label=disable")
            case _:
                _invalid(f'invalid --security-opt: "{option}"')


def _check_sysctls(host: HostConfig) -> None:
    for name in host.sysctls or {}:
        if name.startswith(NETNS_SYSCTL):
            if host.network_mode == "host":
                _invalid(f'sysctl "{name}" not allowed in host network namespace')
        elif name in IPC_SYSCTLS or name.startswith("fs.mqueue."):
            if host.ipc_mode == "host":
                _invalid(f'sysctl "{name}" is not allowed in the hosts ipc namespace')
        elif name not in ("kernel.domainname", "kernel.hostname"):
            _invalid(f'sysctl "{name}" is not in a separate kernel namespace')


def _check_absent(host: HostConfig, facts: RuleFacts) -> None:
    """Options this engine has not got: said, never ignored."""
    if host.runtime and host.runtime not in facts.runtimes:
        _invalid(f"unknown or invalid runtime name: {host.runtime}")
    if host.log_config.type and host.log_config.type not in facts.log_drivers:
        _invalid(f"logger: no log driver named '{host.log_config.type}' is registered")
    if host.links:
        _absent("legacy links are not implemented: use a user-defined network")
    if host.userns_mode not in ("", "host"):
        _invalid(f"invalid USER mode: {host.userns_mode}")
    for request in host.device_requests or ():
        capabilities_wanted = [list(group) for group in request.capabilities or ()]
        _invalid(f'could not select device driver "{request.driver}" with capabilities: {capabilities_wanted}')
    if host.storage_opt:
        _invalid("--storage-opt is supported only for overlay over xfs with 'pquota' mount option")
    for mount in host.mounts or ():
        if mount.type in ("image", "cluster", "npipe"):
            _absent(f"mounts of type {mount.type} are not implemented")
        if mount.volume_options is not None and mount.volume_options.subpath:
            _absent("volume subpaths are not implemented")
        if mount.bind_options is not None and mount.bind_options.read_only_force_recursive:
            _absent("forcing recursive read-only mounts is not implemented")
