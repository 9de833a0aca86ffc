"""RES-01: where systemd runs a host of cgroup v2, a container's group is a scope that systemd knows all about."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.engine import Engine, running_engine

GROUPS = Path("/sys/fs/cgroup")
pytestmark = [
    pytest.mark.root,
    pytest.mark.guest,
    pytest.mark.skipif(
        not (Path("/run/systemd/system").is_dir() and (GROUPS / "cgroup.controllers").exists()),
        reason="needs a host of cgroup v2 that systemd runs",
    ),
]
MIB = 1 << 20


@pytest.fixture(scope="module")
def module_engine() -> Iterator[Engine]:
    with running_engine() as engine:
        yield engine


def systemctl(*arguments: str) -> str:
    return subprocess.run(["systemctl", *arguments], check=True, capture_output=True, text=True).stdout.strip()


def shown(unit: str, *names: str) -> list[str]:
    """Properties of a unit, in the order asked for."""
    found = dict(line.split("=", 1) for line in systemctl("show", unit, "-p", ",".join(names)).splitlines())
    return [found[name] for name in names]


def scope_of(container_id: str) -> str:
    return f"docker-{container_id}.scope"


def test_limits_are_the_groups_and_the_units_and_outlive_a_reload(engine: Engine) -> None:
    """RES-01: `systemctl daemon-reload` writes what the unit says: the same."""
    assert engine.json("/info")["CgroupDriver"] == "systemd"
    container_id = engine.out(
        "run", "-d", "--name", "held", "-m", "64m", "--memory-reservation", "32m", "--cpus", "0.5", "-c", "512",
        "--pids-limit", "50", "--cpuset-cpus", "0", "busybox", "sleep", "1000",
    )  # fmt: skip
    unit, group = scope_of(container_id), GROUPS / "system.slice" / scope_of(container_id)
    pid = str(engine.json("/containers/held/json")["State"]["Pid"])
    assert (group / "cgroup.procs").read_text().split() == [pid], "the placeholder has gone"
    assert shown(unit, "MemoryMax", "MemoryLow", "TasksMax", "CPUQuotaPerSecUSec", "Slice", "Delegate") == [
        str(64 * MIB), str(32 * MIB), "50", "500ms", "system.slice", "yes",
    ]  # fmt: skip

    def limits() -> list[str]:
        files = "memory.max memory.low pids.max cpu.max cpu.weight cpuset.cpus".split()
        return [(group / file).read_text().strip() for file in files]

    before = limits()
    assert before == [str(64 * MIB), str(32 * MIB), "50", "50000 100000", "59", "0"]
    systemctl("daemon-reload")
    assert limits() == before
    engine.cli("update", "-m", "128m", "--memory-swap", "256m", "--pids-limit", "60", "--cpus", "0.25", "held")
    after = limits()
    assert after[:4] == [str(128 * MIB), str(32 * MIB), "60", "25000 100000"]
    assert shown(unit, "MemoryMax", "TasksMax") == [str(128 * MIB), "60"]
    systemctl("daemon-reload")
    assert limits() == after
    assert engine.out("exec", "held", "cat", "/proc/self/cgroup") == "0::/"


def test_devices_are_denied_before_and_after_a_reload(engine: Engine) -> None:
    """RES-01: systemd's device policy and the group's own program agree."""
    engine.cli("run", "-d", "--name", "held", "--cap-add", "MKNOD", "busybox", "sleep", "1000")
    engine.cli("exec", "held", "mknod", "/kmsg", "c", "1", "11")

    def refused() -> bool:
        return "Operation not permitted" in engine.cli("exec", "held", "head", "-c", "1", "/kmsg", check=False).stderr

    assert refused()
    assert engine.out("exec", "held", "head", "-c", "1", "/dev/zero") == "\0"
    systemctl("daemon-reload")
    assert refused()
    assert engine.out("exec", "held", "head", "-c", "1", "/dev/zero") == "\0"


def test_a_scope_goes_with_its_container_and_comes_again(engine: Engine) -> None:
    """RES-01: stopped, restarted, removed: no unit stays, not even a failed one."""
    container_id = engine.out("run", "-d", "--name", "again", "-m", "16m", "busybox", "sleep", "1000")
    unit = scope_of(container_id)
    engine.cli("restart", "-t", "0", "again")
    assert shown(unit, "ActiveState") == ["active"]
    engine.cli("kill", "again")
    engine.wait_for(lambda: shown(unit, "LoadState") == ["not-found"])
    engine.cli("start", "again")
    assert shown(unit, "ActiveState") == ["active"]
    engine.cli("rm", "-f", "again")
    engine.wait_for(lambda: shown(unit, "LoadState") == ["not-found"])
    assert not (GROUPS / "system.slice" / unit).exists()


def test_a_start_that_fails_leaves_no_scope(engine: Engine) -> None:
    failed = engine.cli("run", "--name", "no", "busybox", "/nosuch", check=False)
    assert failed.returncode == 127
    unit = scope_of(engine.json("/containers/no/json")["Id"])
    engine.wait_for(lambda: shown(unit, "LoadState") == ["not-found"])


def test_a_unit_whose_group_went_before_systemd_looked_goes_too(engine: Engine) -> None:
    """Many that end at once, in a moment each: whichever systemd looks at too late would be kept for ever."""
    names = [f"short-{number}" for number in range(12)]
    for name in names:
        engine.cli("create", "--name", name, "busybox", "true" if name[-1] in "02468" else "/nosuch")
    for _ in range(2):  # the second start is refused where the first one's unit is still there
        engine.cli("start", *names, check=False)
        engine.cli("wait", *names)
    units = [scope_of(engine.json(f"/containers/{name}/json")["Id"]) for name in names]
    engine.wait_for(lambda: all(shown(unit, "LoadState") == ["not-found"] for unit in units))


def test_a_parent_is_a_slice(engine: Engine) -> None:
    """RES-01: in its place in the tree of slices; anything else is refused in Docker's words."""
    container_id = engine.out(
        "run", "-d", "--name", "inner", "--cgroup-parent", "tests-docker.slice", "busybox", "sleep", "1000"
    )
    assert (GROUPS / "tests.slice/tests-docker.slice" / scope_of(container_id)).is_dir()
    assert shown(scope_of(container_id), "Slice") == ["tests-docker.slice"]
    refused = engine.cli("create", "--cgroup-parent", "/docker", "busybox", check=False)
    assert 'cgroup-parent for systemd cgroup should be a valid slice named as "xxx.slice"' in refused.stderr


def test_containers_are_adopted_with_their_scopes(engine: Engine) -> None:
    """RES-01: an engine that comes back freezes, limits and removes what an earlier one made."""
    container_id = engine.out("run", "-d", "--name", "kept", "-m", "64m", "busybox", "sleep", "1000")
    engine.restart()
    engine.cli("pause", "kept")
    engine.cli("unpause", "kept")
    engine.cli("update", "--pids-limit", "9", "kept")
    assert shown(scope_of(container_id), "TasksMax") == ["9"]
    assert engine.json("/containers/kept/stats?stream=0&one-shot=1")["pids_stats"] == {"current": 1, "limit": 9}
    engine.cli("rm", "-f", "kept")
    engine.wait_for(lambda: shown(scope_of(container_id), "LoadState") == ["not-found"])
