"""RES-01: limits in systemd's words."""

from __future__ import annotations

from typing import Any

import pytest

from engine.drivers.linux.runtime import scope_plan
from engine.drivers.linux.runtime.device_program import DeviceRule
from engine.drivers.linux.runtime.scope_plan import INFINITY, Scope


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("system.slice", "/system.slice"),
        ("a-b-c.slice", "/a.slice/a-b.slice/a-b-c.slice"),
        ("-.slice", ""),
    ],
)
def test_a_slice_lies_in_the_slices_of_its_name(name: str, path: str) -> None:
    assert scope_plan.slice_path(name) == path


@pytest.mark.parametrize("name", ["a", "a--b.slice", "-a.slice", ".slice", "a/b.slice"])
def test_what_is_no_slice_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="invalid slice name"):
        scope_plan.slice_path(name)


def test_a_scope_is_known_by_its_words_and_by_its_path() -> None:
    scope = scope_plan.scope_of("web-front.slice:docker:abc")
    assert scope == Scope(name="docker-abc.scope", slice="web-front.slice")
    assert scope.path == "/web.slice/web-front.slice/docker-abc.scope"
    assert Scope.at(scope.path) == scope
    assert scope_plan.scope_of("/docker/abc") is None
    assert Scope.at("/docker/abc") is None


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({}, {}),
        (
            {"memory": {"limit": 64, "swap": 128, "reservation": 32}},
            {"MemoryMax": 64, "MemorySwapMax": 64, "MemoryLow": 32},
        ),
        ({"memory": {"limit": 64, "swap": -1}}, {"MemoryMax": 64, "MemorySwapMax": INFINITY}),
        ({"cpu": {"shares": 1024}}, {"CPUWeight": 100}),
        (
            {"cpu": {"quota": 50_000, "period": 100_000}},
            {"CPUQuotaPeriodUSec": 100_000, "CPUQuotaPerSecUSec": 500_000},
        ),
        ({"cpu": {"cpus": "0,9"}}, {"AllowedCPUs": b"\x01\x02"}),
        ({"pids": {"limit": -1}}, {"TasksMax": INFINITY}),
        ({"blockIO": {"weight": 1000}}, {"IOWeight": 10000}),
        (
            {"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 5}]}},
            {"IOReadBandwidthMax": [("/dev/block/8:0", 5)]},
        ),
    ],
)
def test_limits_have_properties(resources: dict[str, Any], expected: dict[str, Any]) -> None:
    assert {name: value for name, (_, value) in scope_plan.properties(resources, "io.weight")} == expected


@pytest.mark.parametrize(("given", "tasks"), [({}, INFINITY), ({"pids": {"limit": 50}}, 50)])
def test_a_new_scope_has_no_limit_of_processes_but_the_one_asked_for(given: dict[str, Any], tasks: int) -> None:
    """systemd's own DefaultTasksMax is for services."""
    assert dict(scope_plan.properties(scope_plan.complete(given), "io.weight"))["TasksMax"] == ("t", tasks)


def test_quotas_are_whole_percents() -> None:
    """systemd would round them at its next reload, and the limit would change by itself."""
    rounded = scope_plan.rounded({"cpu": {"quota": 12_345, "period": 100_000}})
    assert rounded["cpu"]["quota"] == 13_000
    whole = {"cpu": {"quota": 50_000, "period": 100_000}}
    assert scope_plan.rounded(whole) is whole


def test_device_rules_are_told_where_systemd_has_words_for_them() -> None:
    rules = [
        DeviceRule(allow=False),
        DeviceRule(allow=True, type="c", access="m"),
        DeviceRule(allow=True, type="c", major=1, minor=3),
        DeviceRule(allow=True, type="c", major=136),
    ]
    names = scope_plan.device_names("Character devices:\n  1 mem\n136 pts\n\nBlock devices:\n  8 sd\n")
    assert scope_plan.device_properties(rules, names) == [
        ("DevicePolicy", ("s", "strict")),
        ("DeviceAllow", ("a(ss)", [("char-*", "m"), ("/dev/char/1:3", "rwm"), ("char-pts", "rwm")])),
    ]
    denied = DeviceRule(allow=False, type="c", major=1, minor=3)
    for beyond in (DeviceRule(allow=True), denied, DeviceRule(allow=True, type="b", major=77)):
        assert scope_plan.device_properties([*rules, beyond], names) == []
