"""RES-08: limits that the host lacks are dropped, and the client is told in moby's words."""

from __future__ import annotations

from typing import Any

import pytest

from engine.aggregates.container.resource_rules import ALL_LIMITS, ResourceFacts, admitted, not_updatable
from engine.aggregates.values.config import Resources, ThrottleDevice, Ulimit, WeightDevice
from engine.aggregates.values.cpusets import ranges

MIB = 1 << 20
DEVICE = (ThrottleDevice(path="/dev/a", rate=1),)


def lacking(*limits: str) -> ResourceFacts:
    return ResourceFacts(cpus=frozenset({0, 1}), limits=ALL_LIMITS - set(limits))


@pytest.mark.parametrize(
    ("lack", "given", "left", "begin"),
    [
        ("memory", {"memory": 8 * MIB}, {"memory_swap": -1}, "Your kernel does not support memory limit capabilities"),
        (
            "swap",
            {"memory": 8 * MIB, "memory_swap": 16 * MIB},
            {"memory": 8 * MIB, "memory_swap": -1},
            "Your kernel does not support swap limit capabilities",
        ),
        ("swappiness", {"memory_swappiness": 3}, {}, "Your kernel does not support memory swappiness capabilities"),
        ("reservation", {"memory_reservation": 8 * MIB}, {}, "Your kernel does not support memory soft limit"),
        (
            "oom-kill-disable",
            {"memory": 8 * MIB, "memory_swap": -1, "oom_kill_disable": True},
            {"memory": 8 * MIB, "memory_swap": -1},
            "Your kernel does not support OomKillDisable.",
        ),
        ("pids", {"pids_limit": 9}, {}, "Your kernel does not support PIDs limit capabilities"),
        ("shares", {"cpu_shares": 9}, {}, "Your kernel does not support CPU shares"),
        ("cfs", {"cpu_quota": 9000, "cpu_period": 9000}, {}, "Your kernel does not support CPU CFS scheduler."),
        ("cpuset", {"cpuset_cpus": "0", "cpuset_mems": "0"}, {}, "Your kernel does not support cpuset"),
        ("blkio-weight", {"blkio_weight": 10}, {}, "Your kernel does not support Block I/O weight or"),
        (
            "blkio-weight-device",
            {"blkio_weight_device": (WeightDevice(path="/dev/a", weight=10),)},
            {"blkio_weight_device": ()},
            "Your kernel does not support Block I/O weight_device",
        ),
        *(
            (f"blkio-{way}-{what}", {f"blkio_device_{way}_{what}": DEVICE}, {f"blkio_device_{way}_{what}": ()}, words)
            for way, what, words in (
                ("read", "bps", "Your kernel does not support BPS Block I/O read limit"),
                ("write", "bps", "Your kernel does not support BPS Block I/O write limit"),
                ("read", "iops", "Your kernel does not support IOPS Block read limit"),
                ("write", "iops", "Your kernel does not support IOPS Block write limit"),
            )
        ),
    ],
)
def test_what_the_host_lacks_is_dropped_with_a_warning(
    lack: str, given: dict[str, Any], left: dict[str, Any], begin: str
) -> None:
    resources, warnings = admitted(Resources(**given), lacking(lack))
    assert resources == Resources(**left)
    assert len(warnings) == 1
    assert warnings[0].startswith(begin)
    assert warnings[0].endswith(".")
    assert admitted(Resources(**given), lacking()) == (Resources(**given), ())


def test_what_asks_for_nothing_is_dropped_in_silence() -> None:
    given = Resources(oom_kill_disable=False, pids_limit=0, memory_swappiness=-1)
    assert admitted(given, lacking(*ALL_LIMITS)) == (Resources(), ())


def test_an_oom_killer_switched_off_without_a_limit_is_warned_of() -> None:
    resources, warnings = admitted(Resources(oom_kill_disable=True), lacking())
    assert resources.oom_kill_disable
    assert "this can result in the system running out of resources" in warnings[0]


def test_an_update_may_name_swap_alone() -> None:
    assert admitted(Resources(memory_swap=8 * MIB), lacking(), update=True) == (Resources(memory_swap=8 * MIB), ())


def test_an_update_can_not_change_everything() -> None:
    given = Resources(memory=8 * MIB, pids_limit=3, cgroup_parent="/x", ulimits=(Ulimit(name="nofile"),))
    assert not_updatable(given) == ("CgroupParent", "Ulimits")


@pytest.mark.parametrize(("given", "text"), [((0, 1, 2), "0-2"), ((3, 1), "1,3"), ((4,), "4"), ((), "")])
def test_available_numbers_are_told_as_ranges(given: tuple[int, ...], text: str) -> None:
    assert ranges(given) == text
