"""An engine that did everything and ended leaves the machine as it was."""

from __future__ import annotations

import time

import pytest

from tests.support.engine import running_engine

pytestmark = pytest.mark.root


def test_an_engine_that_ends_leaves_no_namespace_mount_cgroup_or_process() -> None:
    """Running, paused, restarting, failed and removed containers, networks, volumes, execs; then all of it cleared."""
    with running_engine() as engine:
        engine.cli("network", "create", "yard")
        engine.cli("run", "-d", "--name", "runs", "--network", "yard", "-p", "8080:80", "busybox", "sleep", "1000")
        engine.cli("run", "-d", "--name", "sleeps", "-v", "data:/data", "--tmpfs", "/t", "busybox", "sleep", "1000")
        engine.cli("run", "-d", "--name", "fails", "--restart", "always", "busybox", "false")
        engine.cli("run", "-d", "--name", "eats", "-m", "16m", "--cpus", "0.1", "--init", "busybox", "sleep", "1000")
        engine.cli("run", "--name", "broken", "busybox", "nosuchcommand", check=False)
        engine.cli("exec", "-d", "runs", "sleep", "1000")
        engine.cli("network", "connect", "yard", "eats")
        engine.cli("pause", "sleeps")
        engine.cli("rm", "-f", "runs")
        assert engine.leaks(), "a living engine is found by what it holds"
    deadline = time.monotonic() + 10
    while left := engine.leaks():
        assert time.monotonic() < deadline, "\n".join(left)
        time.sleep(0.02)


def test_a_removed_container_leaves_nothing_while_the_engine_runs() -> None:
    """Its cgroups, its mounts in anybody's view, its veth and its folders are gone soon after the answer."""
    with running_engine() as engine:
        links = engine.in_namespace("ip", "-o", "link").stdout.count("veth")
        for number in range(3):
            engine.cli("run", "--rm", "-v", f"v{number}:/v", "-p", "80", "busybox", "true")
        container_id = engine.out("run", "-d", "busybox", "sleep", "1000")
        engine.cli("rm", "-f", container_id)
        engine.wait_for(lambda: not [leak for leak in engine.container_leaks() if "cgroup" in leak or "mount" in leak])
        for folder in ("containers", "rootfs"):
            engine.wait_for(lambda folder=folder: not list((engine.data_root / folder).glob("*")))
        engine.wait_for(lambda: engine.in_namespace("ip", "-o", "link").stdout.count("veth") <= links)
