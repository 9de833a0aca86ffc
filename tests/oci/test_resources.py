"""Limits in Docker's words as the OCI specification wants them."""

from __future__ import annotations

from typing import Any

import pytest

from engine.aggregates.decider import Reason, Rejected
from engine.aggregates.values.config import Resources, ThrottleDevice, WeightDevice
from engine.oci.resources import DEFAULT_DEVICE_RULES, device_rules, limited_devices, limits


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {}),
        ({"memory": 64 << 20}, {"memory": {"limit": 64 << 20}}),
        (
            {"memory": 64 << 20, "memory_swap": -1, "memory_reservation": 32 << 20},
            {"memory": {"limit": 64 << 20, "swap": -1, "reservation": 32 << 20}},
        ),
        ({"memory_swappiness": 0}, {"memory": {"swappiness": 0}}),
        ({"memory_swappiness": -1}, {}),
        ({"oom_kill_disable": True}, {"memory": {"disableOOMKiller": True}}),
        ({"oom_kill_disable": False}, {}),
        ({"nano_cpus": 1_500_000_000}, {"cpu": {"period": 100_000, "quota": 150_000}}),
        ({"cpu_period": 50_000, "cpu_quota": 25_000}, {"cpu": {"period": 50_000, "quota": 25_000}}),
        (
            {"cpu_shares": 512, "cpuset_cpus": "0-1", "cpuset_mems": "0"},
            {"cpu": {"shares": 512, "cpus": "0-1", "mems": "0"}},
        ),
        ({"pids_limit": 100}, {"pids": {"limit": 100}}),
        ({"pids_limit": -1}, {"pids": {"limit": -1}}),
        ({"pids_limit": 0}, {"pids": {"limit": -1}}),
        ({"cpu_realtime_period": 9, "cpu_realtime_runtime": 5}, {"cpu": {"realtimePeriod": 9, "realtimeRuntime": 5}}),
        ({"blkio_weight": 300}, {"blockIO": {"weight": 300}}),
    ],
)
def test_a_limit_is_there_when_it_was_asked_for(given: dict[str, Any], expected: dict[str, Any]) -> None:
    assert limits(Resources(**given)) == expected


def test_limits_per_device_name_the_devices_by_number() -> None:
    """RES-05: the paths are the host's; who asks for the limits has looked the numbers up."""
    host = Resources(
        blkio_weight_device=(WeightDevice(path="/dev/a", weight=20),),
        blkio_device_read_bps=(ThrottleDevice(path="/dev/a", rate=1), ThrottleDevice(path="/dev/b", rate=2)),
        blkio_device_write_iops=(ThrottleDevice(path="/dev/b", rate=3),),
    )
    assert limited_devices(host) == ("/dev/a", "/dev/b")
    assert limits(host, {"/dev/a": (8, 0), "/dev/b": (8, 16)}) == {
        "blockIO": {
            "weightDevice": [{"major": 8, "minor": 0, "weight": 20}],
            "throttleReadBpsDevice": [
                {"major": 8, "minor": 0, "rate": 1},
                {"major": 8, "minor": 16, "rate": 2},
            ],
            "throttleWriteIOPSDevice": [{"major": 8, "minor": 16, "rate": 3}],
        }
    }


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("c 42:* rmw", {"allow": True, "type": "c", "access": "rmw", "major": 42}),
        ("b *:3 r", {"allow": True, "type": "b", "access": "r", "minor": 3}),
        ("a *:* rwm", {"allow": True, "type": "a", "access": "rwm"}),
    ],
)
def test_a_rule_of_the_users_comes_after_the_defaults(rule: str, expected: dict[str, Any]) -> None:
    rules = device_rules([rule], (), privileged=False)
    assert rules[0] == {"allow": False, "access": "rwm"}
    assert len(rules) == 1 + len(DEFAULT_DEVICE_RULES) + 1
    assert rules[-1] == expected


@pytest.mark.parametrize("rule", ["c 1:3", "x 1:3 r", "c one:3 r", "c 1:3 q", "c 1:3 rwmr", ""])
def test_a_rule_that_is_none_is_refused(rule: str) -> None:
    with pytest.raises(Rejected, match="invalid device cgroup rule format") as caught:
        device_rules([rule], (), privileged=False)
    assert caught.value.reason is Reason.INVALID
