"""Limits in Docker's words as the OCI specification wants them."""

from __future__ import annotations

from typing import Any

import pytest

from engine.aggregates.decider import Reason, Rejected
from engine.aggregates.values.config import Resources, ThrottleDevice
from engine.oci.resources import DEFAULT_DEVICE_RULES, device_rules, limits


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
        ({"pids_limit": 0}, {}),
        ({"blkio_weight": 300}, {"blockIO": {"weight": 300}}),
    ],
)
def test_a_limit_is_there_when_it_was_asked_for(given: dict[str, Any], expected: dict[str, Any]) -> None:
    assert limits(Resources(**given)) == expected


def test_limits_per_device_are_said_to_be_absent() -> None:
    with pytest.raises(Rejected) as caught:
        limits(Resources(blkio_device_read_bps=(ThrottleDevice(path="/dev/sda", rate=1),)))
    assert caught.value.reason is Reason.NOT_IMPLEMENTED


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
