"""The meter on cgroup v2, over a folder that looks like one: what is shown of a group, and of one that has gone."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import trio

from engine.drivers.linux.runtime.meter import LinuxMeter


async def test_a_group_of_v2_that_has_gone_is_no_sample(tmp_path: Path) -> None:
    """A container that ends between two samples leaves the others theirs."""
    (tmp_path / "here").mkdir()
    (tmp_path / "here/cpu.stat").write_text("usage_usec 7\nuser_usec 4\nsystem_usec 3\n")
    (tmp_path / "here/memory.max").write_text("max\n")
    runtime: Any = SimpleNamespace(
        facts=SimpleNamespace(version=2, unified=str(tmp_path)), cgroup_of=lambda container_id: f"/{container_id}"
    )
    found = await LinuxMeter(runtime, trio.CapacityLimiter(1)).samples({"here": 0, "gone": 0})
    assert {container_id: sample.cpu_total_ns for container_id, sample in found.items()} == {"here": 7000}
