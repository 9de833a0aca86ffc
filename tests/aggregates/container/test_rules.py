"""Which configurations are refused, and in which words."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from engine.aggregates.container.rules import RuleFacts, check, check_namespaces, check_restart_policy
from engine.aggregates.decider import Reason, Rejected
from engine.aggregates.values.config import (
    ContainerConfig,
    DeviceRequest,
    HealthConfig,
    HostConfig,
    LogConfig,
    PortBinding,
    RestartPolicy,
    Ulimit,
    WeightDevice,
)

FACTS = RuleFacts(cpus=frozenset({0, 1}))
MIB = 1 << 20


def refusal(config: dict[str, Any], host: dict[str, Any]) -> tuple[Reason, str]:
    with pytest.raises(Rejected) as caught:
        check_namespaces(ContainerConfig(**config), HostConfig(**host))
        check(ContainerConfig(**config), HostConfig(**host), FACTS)
    return caught.value.reason, caught.value.message


def test_a_plain_container_is_legal() -> None:
    check(ContainerConfig(cmd=("sh",)), HostConfig(), FACTS)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"hostname": "x" * 65}, f"invalid hostname: {'x' * 65}"),
        ({"working_dir": "srv"}, "the working directory 'srv' is invalid, it needs to be an absolute path"),
        ({"stop_signal": "SIGFISH"}, "invalid signal: SIGFISH"),
        ({"env": ("A=1", "=2")}, "invalid environment variable: =2"),
        ({"healthcheck": HealthConfig(interval=1)}, "Interval in Healthcheck cannot be less than 1ms"),
        ({"healthcheck": HealthConfig(timeout=-1)}, "Timeout in Healthcheck cannot be less than 1ms"),
        ({"healthcheck": HealthConfig(start_period=9)}, "StartPeriod in Healthcheck cannot be less than 1ms"),
        ({"healthcheck": HealthConfig(retries=-1)}, "Retries in Healthcheck cannot be negative"),
        ({"healthcheck": HealthConfig(test=("RUN", "x"))}, "Unknown healthcheck type 'RUN' (expected 'CMD')"),
    ],
)
def test_a_configuration_is_refused_in_dockers_words(config: dict, words: str) -> None:
    assert refusal(config, {}) == (Reason.INVALID, words)


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ({"memory": 6 * MIB - 1}, "Minimum memory limit allowed is 6MB"),
        (
            {"memory": 8 * MIB, "memory_swap": 7 * MIB},
            "Minimum memoryswap limit should be larger than memory limit, see usage",
        ),
        (
            {"memory_swap": 8 * MIB},
            "You should always set the Memory limit when using Memoryswap limit, see usage",
        ),
        ({"memory_swappiness": 101}, "Invalid value: 101, valid memory swappiness range is 0-100"),
        ({"memory_reservation": MIB}, "Minimum memory reservation allowed is 6MB"),
        (
            {"memory": 8 * MIB, "memory_reservation": 9 * MIB},
            "Minimum memory limit can not be less than memory reservation limit, see usage",
        ),
        ({"nano_cpus": 1, "cpu_period": 1}, "Conflicting options: Nano CPUs and CPU Period cannot both be set"),
        ({"nano_cpus": 1, "cpu_quota": 1}, "Conflicting options: Nano CPUs and CPU Quota cannot both be set"),
        (
            {"nano_cpus": 3_000_000_000},
            "range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available",
        ),
        ({"cpu_shares": -1}, "invalid CPU shares (-1): value must be a positive integer"),
        (
            {"cpu_period": 999},
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        ),
        ({"cpu_quota": 999}, "CPU cfs quota can not be less than 1ms (i.e. 1000)"),
        (
            {"cpu_realtime_period": 1000, "cpu_realtime_runtime": 1001},
            "cpu real-time runtime cannot be higher than cpu real-time period",
        ),
        ({"cpuset_cpus": "0-2"}, "Requested CPUs are not available - requested 0-2, available: 0-1"),
        ({"cpuset_mems": "1"}, "Requested memory nodes are not available - requested 1, available: 0"),
        ({"cpuset_cpus": "a"}, "Invalid value a for cpuset cpus: invalid format: a"),
        ({"cpuset_cpus": "2-1"}, "Invalid value 2-1 for cpuset cpus: invalid format: 2-1"),
        ({"cpuset_mems": "0-"}, "Invalid value 0- for cpuset mems: invalid format: 0-"),
        ({"blkio_weight": 9}, "Range of blkio weight is from 10 to 1000"),
        (
            {"blkio_weight_device": (WeightDevice(path="/dev/a", weight=1001),)},
            "Range of blkio weight is from 10 to 1000",
        ),
        (
            {"ulimits": (Ulimit(name="nofile", soft=2, hard=1),)},
            "ulimit soft limit must be less than or equal to hard limit: 2 > 1",
        ),
        ({"ulimits": (Ulimit(name="height", soft=1, hard=1),)}, "invalid ulimit type: height"),
        ({"extra_hosts": ("a",)}, 'bad format for add-host: "a"'),
        ({"extra_hosts": ("a:host-gateway", "b:c")}, 'invalid IP address in add-host: "c"'),
        ({"cap_add": ("FLY",)}, 'invalid CapAdd: unknown capability: "CAP_FLY"'),
        ({"cap_drop": ("cap_fly",)}, 'invalid CapDrop: unknown capability: "CAP_FLY"'),
        (
            {"annotations": {"": "x"}},
            "invalid Annotations: the empty string is not permitted as an annotation key",
        ),
        (
            {"auto_remove": True, "restart_policy": RestartPolicy(name="always")},
            "can't create 'AutoRemove' container with restart policy",
        ),
        ({"ipc_mode": "mine"}, "invalid IPC mode: mine"),
        ({"ipc_mode": "container:"}, "invalid IPC mode: container:"),
        ({"pid_mode": "private"}, "invalid PID mode: private"),
        ({"uts_mode": "container:x"}, "invalid UTS mode: container:x"),
        ({"cgroupns_mode": "shared"}, "invalid cgroup namespace mode: shared"),
        ({"isolation": "hyperv"}, 'invalid isolation "hyperv" on linux'),
        ({"shm_size": -1}, "SHM size can not be less than 0"),
        ({"oom_score_adj": 1001}, "Invalid value 1001, range for oom score adj is [-1000, 1000]"),
        ({"security_opt": ("fish=1",)}, 'invalid --security-opt: "fish=1"'),
        ({"security_opt": ("no-new-privileges=maybe",)}, 'invalid --security-opt: "no-new-privileges=maybe"'),
        ({"sysctls": {"kernel.panic": "1"}}, 'sysctl "kernel.panic" is not in a separate kernel namespace'),
        (
            {"sysctls": {"net.core.somaxconn": "1"}, "network_mode": "host"},
            'sysctl "net.core.somaxconn" not allowed in host network namespace',
        ),
        (
            {"sysctls": {"kernel.shmmax": "1"}, "ipc_mode": "host"},
            'sysctl "kernel.shmmax" is not allowed in the hosts ipc namespace',
        ),
        ({"runtime": "magic"}, "unknown or invalid runtime name: magic"),
        ({"userns_mode": "keep-id"}, "invalid USER mode: keep-id"),
        (
            {"device_requests": (DeviceRequest(driver="", capabilities=(("gpu",),)),)},
            "could not select device driver \"\" with capabilities: [[gpu]]",
        ),
        (
            {"storage_opt": {"size": "1G"}},
            "--storage-opt is supported only for overlay over xfs with 'pquota' mount option",
        ),
    ],
)
def test_a_host_configuration_is_refused_in_dockers_words(host: dict, words: str) -> None:
    assert refusal({}, host) == (Reason.INVALID, words)


@pytest.mark.parametrize(
    "host",
    [
        {"memory": 6 * MIB, "memory_swap": -1, "memory_swappiness": -1},
        {"memory": 6 * MIB, "memory_swap": 6 * MIB},
        {"cpuset_cpus": "0,1", "cpuset_mems": "0", "nano_cpus": 10_000_000},
        {"cpu_period": 1000, "cpu_quota": -1},
        {"ulimits": (Ulimit(name="core", soft=5, hard=-1),)},
        {"cap_add": ("all", "cap_net_admin"), "cap_drop": ("Chown",)},
        {"ipc_mode": "container:x", "pid_mode": "container:x", "uts_mode": "host", "cgroupns_mode": "host"},
        {"security_opt": ("no-new-privileges", "seccomp=unconfined", "apparmor:x", "label=disable")},
        {"sysctls": {"net.ipv4.ip_forward": "1", "fs.mqueue.msg_max": "1", "kernel.shmmax": "1"}},
        {"log_config": LogConfig(type="none"), "runtime": "native", "userns_mode": "host", "isolation": "default"},
        {"oom_score_adj": -1000, "blkio_weight": 10},
    ],
)
def test_what_is_legal_passes(host: dict) -> None:
    check(ContainerConfig(), HostConfig(**host), FACTS)


SHARED = {"network_mode": "container:x"}
KIND = "the container type network mode"


@pytest.mark.parametrize(
    ("config", "host", "words"),
    [
        ({}, {"network_mode": "container:"}, "invalid container format container:<name|id>"),
        ({"hostname": "box"}, SHARED, "conflicting options: hostname and the network mode"),
        (
            {},
            {**SHARED, "links": ("a",)},
            "conflicting options: container type network can't be used with links. This would result in undefined "
            "behavior",
        ),
        ({}, {**SHARED, "dns": ("1.1.1.1",)}, "conflicting options: dns and the network mode"),
        (
            {},
            {**SHARED, "extra_hosts": ("a:1.1.1.1",)},
            "conflicting options: custom host-to-IP mapping and the network mode",
        ),
        (
            {},
            {**SHARED, "port_bindings": {"80/tcp": (PortBinding(),)}},
            f"conflicting options: port publishing and {KIND}",
        ),
        ({}, {**SHARED, "publish_all_ports": True}, f"conflicting options: port publishing and {KIND}"),
        ({"exposed_ports": {"80/tcp": {}}}, SHARED, f"conflicting options: port exposing and {KIND}"),
        ({"hostname": "box"}, {"uts_mode": "host"}, "conflicting options: hostname and the UTS mode"),
    ],
)
def test_what_does_not_go_with_a_shared_namespace(config: dict, host: dict, words: str) -> None:
    assert refusal(config, host) == (Reason.INVALID, words)


@pytest.mark.parametrize("name", ["", "no", "always", "unless-stopped", "on-failure"])
def test_the_restart_policies_of_docker_are_known(name: str) -> None:
    check_restart_policy(RestartPolicy(name=name))


@pytest.mark.parametrize(
    ("name", "count", "words"),
    [
        ("always", 1, "maximum retry count can only be used with 'on-failure'"),
        ("no", -1, "maximum retry count can only be used with 'on-failure' and cannot be negative"),
        ("on-failure", -1, "maximum retry count cannot be negative"),
        ("sometimes", 0, "unknown policy 'sometimes'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"),
    ],
)
def test_a_restart_policy_is_refused_in_dockers_words(name: str, count: int, words: str) -> None:
    with pytest.raises(Rejected) as caught:
        check_restart_policy(RestartPolicy(name=name, maximum_retry_count=count))
    assert caught.value.message == f"invalid restart policy: {words}"


def test_a_count_goes_with_on_failure() -> None:
    check_restart_policy(RestartPolicy(name="on-failure", maximum_retry_count=3))


def test_processors_that_are_not_in_a_row_are_listed() -> None:
    facts = replace(FACTS, cpus=frozenset({0, 2}))
    with pytest.raises(Rejected, match="available: 0,2"):
        check(ContainerConfig(), HostConfig(cpuset_cpus="1"), facts)


def test_a_read_write_layer_can_be_limited_where_the_file_system_can() -> None:
    """IMG-23."""
    facts = replace(FACTS, quotas=True)
    host = HostConfig(storage_opt={"SIZE": "20M"})
    check(ContainerConfig(), host, facts)
    assert (host.limit_bytes, HostConfig().limit_bytes) == (20 << 20, 0)
    for options, words in (({"colour": "1"}, "Unknown option colour"), ({"size": "much"}, "invalid size: 'much'")):
        with pytest.raises(Rejected, match=words):
            check(ContainerConfig(), HostConfig(storage_opt=options), facts)
