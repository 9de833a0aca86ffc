"""The Runtime port where it is about the kernel: output, limits, confinement, surviving an engine. Real containers.

What the simulated driver promises too is in test_runtime_both.py.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import trio

from engine.aggregates.values.config import HostConfig
from engine.drivers.linux.runtime.meter import LinuxMeter
from engine.drivers.ports.runtime import Stdio
from engine.errors import Fault, PortError
from tests.support.containers import Client, Harbour, cgroups_of, entries, harbour, logged

pytestmark = pytest.mark.root


async def test_output_is_in_the_log_by_stream_with_dockers_fields(port: Harbour) -> None:
    launch = port.launch("sh", "-c", "echo ahoy; echo whale >&2")
    assert await port.run(launch) == (0, "ahoy\nwhale\n")
    assert [list(entry) for entry in entries(launch)] == [["log", "stream", "time"]] * 2
    assert logged(launch, "stderr") == "whale\n"


@pytest.mark.parametrize(
    ("program", "code", "words"),
    [
        ("nosuchcmd", 127, 'exec: "nosuchcmd": executable file not found in $PATH'),
        ("/nosuchcmd", 127, 'exec: "/nosuchcmd": stat /nosuchcmd: no such file or directory'),
        ("/etc", 126, 'exec: "/etc": is a directory'),
        ("/etc/notes", 126, 'exec: "/etc/notes": permission denied'),
    ],
)
async def test_a_program_that_can_not_run_fails_the_start_and_leaves_nothing(
    port: Harbour, program: str, code: int, words: str
) -> None:
    launch = port.launch(program)
    with pytest.raises(PortError) as caught:
        await port.runtime.start(launch)
    assert caught.value.exit_code == code
    assert caught.value.fault is Fault.INVALID
    assert words in caught.value.message
    inventory = await port.runtime.list()
    assert inventory.running == inventory.exits == ()
    await gone(launch.container_id)


async def gone(container_id: str) -> None:
    with trio.fail_after(5):
        while cgroups_of(container_id):
            await trio.sleep(0.05)


async def test_a_missing_bind_source_is_127_with_words(port: Harbour) -> None:
    launch = port.launch("true")
    bind = {"destination": "/x", "type": "bind", "source": "/nonexistent-source", "options": ["rbind"]}
    launch.spec["mounts"].append(bind)
    with pytest.raises(PortError, match="no such file or directory") as caught:
        await port.runtime.start(launch)
    assert caught.value.exit_code == 127


async def test_a_second_run_starts_right_after_the_first_is_forgotten(port: Harbour) -> None:
    from msgspec.structs import replace

    launch = port.launch("sh", "-c", "echo again")
    await port.run(launch)
    assert (await port.run(replace(launch, run=2)))[1] == "again\nagain\n"


async def test_signals_reach_the_first_process(port: Harbour) -> None:
    launch = port.launch("sh", "-c", "trap 'echo caught; exit 7' TERM; echo ready; while :; do sleep 0.1; done")
    client = Client()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(attach_output, port, launch.container_id, client)
        await port.runtime.start(launch)
        await client.read_until(b"ready")
        await port.runtime.signal(launch.container_id, signal.SIGTERM)
    assert (await port.exit_of(launch)).exit_code == 7
    await port.runtime.signal(launch.container_id, signal.SIGTERM)  # gone already: no error


async def attach_output(port: Harbour, container_id: str, client: Client) -> None:
    fd = client.hand_over()
    try:
        await port.runtime.attach(container_id, fd, stdin=False, stdout=True, stderr=True, multiplexed=False)
    finally:
        os.close(fd)


async def test_exec_runs_inside_and_reports_its_own_exit(port: Harbour) -> None:
    launch = port.launch("sleep", "60")
    await port.runtime.start(launch)
    command = port.exec_of(launch, "sh", "-c", "echo from inside > /tmp/note; hostname > /tmp/name; exit 5")
    await port.runtime.execute(command)
    assert (await port.exit_of(launch, command.exec_id)).exit_code == 5
    upper = Path(launch.rootfs.upper)
    assert (upper / "tmp/note").read_text() == "from inside\n"
    assert (upper / "tmp/name").read_text() == launch.container_id[:12] + "\n"
    await port.runtime.forget(launch.container_id, launch.run, exec_id=command.exec_id)
    assert [r.exec_id for r in (await port.runtime.list()).running] == [""]


async def test_exec_is_confined_like_its_container(port: Harbour) -> None:
    launch = port.launch("sleep", "60")
    await port.runtime.start(launch)
    fields = "grep -E '^(Cap(Eff|Bnd)|Seccomp):' /proc/self/status > /tmp/status; cat /proc/self/cgroup > /tmp/groups"
    command = port.exec_of(launch, "sh", "-c", fields)
    await port.runtime.execute(command)
    await port.exit_of(launch, command.exec_id)
    upper = Path(launch.rootfs.upper)
    status = dict(line.split(":\t") for line in (upper / "tmp/status").read_text().splitlines())
    assert status == {"CapEff": "00000000a80425fb", "CapBnd": "00000000a80425fb", "Seccomp": "2"}
    assert all(line.endswith(":/") for line in (upper / "tmp/groups").read_text().splitlines())


@pytest.mark.parametrize(("program", "code"), [("nosuchcmd", 127), ("/etc/notes", 126)])
async def test_an_exec_that_can_not_run_says_so_and_spares_the_container(
    port: Harbour, program: str, code: int
) -> None:
    launch = port.launch("sleep", "60")
    await port.runtime.start(launch)
    with pytest.raises(PortError) as caught:
        await port.runtime.execute(port.exec_of(launch, program))
    assert caught.value.exit_code == code
    assert caught.value.message.startswith("OCI runtime exec failed: exec failed: ")
    assert len((await port.runtime.list()).running) == 1


async def test_a_frozen_container_does_nothing_until_thawed(port: Harbour) -> None:
    launch = port.launch("sleep", "60")
    pid = await port.runtime.start(launch)
    await port.runtime.freeze(launch.container_id)
    assert [r.paused for r in (await port.runtime.list()).running] == [True]
    os.kill(pid, signal.SIGKILL)
    await port.runtime.thaw(launch.container_id)
    assert (await port.exit_of(launch)).exit_code == 137


async def test_an_oom_kill_is_seen(port: Harbour) -> None:
    host = HostConfig(memory=16 << 20, memory_swap=16 << 20, cgroupns_mode="private", ipc_mode="private")
    launch = port.launch("sh", "-c", "exec tail /dev/zero", host=host)
    await port.runtime.start(launch)
    exit_ = await port.exit_of(launch)
    assert exit_.oom_killed
    assert exit_.exit_code == 137


async def test_the_smallest_memory_limit_is_enough_to_start(port: Harbour) -> None:
    host = HostConfig(memory=6 << 20, memory_swap=6 << 20, cgroupns_mode="private", ipc_mode="private")
    assert await port.run(port.launch("echo", "small", host=host)) == (0, "small\n")


async def test_limits_are_on_the_cgroup_and_change_live(port: Harbour) -> None:
    host = HostConfig(memory=64 << 20, pids_limit=50, cpu_shares=512, nano_cpus=500_000_000, cgroupns_mode="private")
    launch = port.launch("sleep", "60", host=host)
    await port.runtime.start(launch)
    meter = LinuxMeter(port.runtime, trio.CapacityLimiter(1))
    sample = (await meter.samples({launch.container_id: 0, "0" * 64: 0}))[launch.container_id]
    assert (sample.memory_limit, sample.pids_limit, sample.pids_current) == (64 << 20, 50, 1)
    assert (await meter.samples({"0" * 64: 0})) == {}
    assert sample.cpu_total_ns > 0
    assert await meter.processes(launch.container_id) == ((await port.runtime.list()).running[0].pid,)
    await port.runtime.update(launch.container_id, {"memory": {"limit": 128 << 20}, "pids": {"limit": 20}})
    sample = (await meter.samples({launch.container_id: 0}))[launch.container_id]
    assert (sample.memory_limit, sample.pids_limit) == (128 << 20, 20)


async def test_without_an_engine_clients_stay_attached_and_exits_are_journalled(tmp_path: Path, layer: Path) -> None:
    client = Client()
    async with harbour(tmp_path, layer, engine_dies=True) as port:
        launch = port.launch("sh", "-c", "read line; echo said $line; exit 3", stdio=Stdio(open_stdin=True))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(converse, port, launch.container_id, client)
            await port.runtime.start(launch)
            await client.stream.send_all(b"yes")
            port.runtime.let_go()
            nursery.cancel_scope.cancel()
    await client.stream.send_all(b" sir\n")
    assert await client.read_all() == b"said yes sir\n"
    journal = tmp_path / "data/supervisor/exits" / f"{launch.container_id}.1"
    with trio.fail_after(5):
        while not journal.exists():
            await trio.sleep(0.02)
    assert journal.read_text().startswith("3 0 ")
    async with harbour(tmp_path, layer) as port:
        assert (await port.exit_of(launch)).exit_code == 3
        assert logged(launch) == "said yes sir\n"


async def converse(port: Harbour, container_id: str, client: Client) -> None:
    fd = client.hand_over()
    try:
        await port.runtime.attach(container_id, fd, stdin=True, stdout=True, stderr=True, multiplexed=False)
    finally:
        os.close(fd)


async def test_a_supervisor_killed_hard_is_replaced_and_its_containers_are_reported_lost(port: Harbour) -> None:
    launch = port.launch("sleep", "60")
    pid = await port.runtime.start(launch)
    supervisor = (await port.runtime._connection.request("hello"))["pid"]
    os.kill(supervisor, signal.SIGKILL)
    assert (await port.exit_of(launch)).exit_code == 255
    inventory = await port.runtime.list()
    assert inventory.running == ()
    assert launch.container_id in inventory.orphans
    await port.runtime.forget(launch.container_id, launch.run)
    with trio.fail_after(5):
        while os.path.exists(f"/proc/{pid}"):
            await trio.sleep(0.02)
    await gone(launch.container_id)
