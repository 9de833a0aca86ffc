"""The Runtime port as engines use it: what the kernel's driver and the simulated one promise alike.

What is about the kernel itself (output, limits, confinement) is in test_runtime_lifecycle.py.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Protocol

import pytest
import trio
from msgspec.structs import replace

from engine.drivers.linux.runtime.driver import LinuxRuntime
from engine.drivers.ports.runtime import ExecLaunch, Exit, Launch, LogSpec, RootFilesystem, Runtime, Stdio
from engine.errors import Fault, PortError
from tests.simulation.drivers.runtime import SimulatedRuntime
from tests.simulation.faults import Faults, Gate
from tests.simulation.machine import Behaviour, Machine
from tests.support.containers import DEADLINE_S, Harbour, cgroups_of, harbour


class Place(Protocol):
    """Where containers run. Programs are `true`, `sleep N`, `sh -c "exit N"` and what does not exist."""

    runtime: LinuxRuntime | SimulatedRuntime
    """The ports Runtime and Streams."""

    def launch(self, *args: str) -> Launch: ...

    def exec_of(self, launch: Launch, *args: str) -> ExecLaunch: ...

    def another_engine(self) -> LinuxRuntime | SimulatedRuntime:
        """One on the same roots, as after a crash of the first."""
        ...

    async def lose_supervisor(self) -> None: ...

    def has_group(self, container_id: str) -> bool: ...


class Native(Harbour):
    def another_engine(self) -> LinuxRuntime:
        return LinuxRuntime(str(self.directory / "exec"), str(self.directory / "data"))

    async def lose_supervisor(self) -> None:
        os.kill((await self.runtime._connection.request("hello"))["pid"], signal.SIGKILL)

    def has_group(self, container_id: str) -> bool:
        return bool(cgroups_of(container_id))


class Simulated:
    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.runtime = self.another_engine()

    def launch(self, *args: str) -> Launch:
        container_id = secrets.token_hex(32)
        self.machine.rootfs.add(container_id)
        return Launch(
            container_id=container_id,
            run=1,
            spec={"process": {"args": _behaviour(args)}, "linux": {"namespaces": []}},
            rootfs=RootFilesystem(lowers=(), upper="", work=""),
            stdio=Stdio(),
            log=LogSpec(driver="none"),
        )

    def exec_of(self, launch: Launch, *args: str) -> ExecLaunch:
        return ExecLaunch(
            exec_id=secrets.token_hex(32),
            container_id=launch.container_id,
            process={"args": _behaviour(args)},
            stdio=Stdio(),
        )

    def another_engine(self) -> SimulatedRuntime:
        return SimulatedRuntime(self.machine, Gate(), Faults(Random(1)))

    async def lose_supervisor(self) -> None:
        self.machine.lose_supervisor()

    def has_group(self, container_id: str) -> bool:
        return container_id in self.machine.cgroups


def _behaviour(args: tuple[str, ...]) -> list[str]:
    match args:
        case ("true",) | ("echo", "ahoy"):
            return Behaviour(after_s=0.0).words
        case ("sleep", _):
            return Behaviour(on_term=None).words  # a first process without a handler
        case ("sh", "-c", script):
            return Behaviour(after_s=0.0, code=int(script.removeprefix("exit "))).words
        case _:
            return list(args)


@pytest.fixture(params=[pytest.param("native", marks=pytest.mark.root), "simulated"])
async def place(request: pytest.FixtureRequest, tmp_path: Path, layer: Path) -> AsyncIterator[Place]:
    async with contextlib.AsyncExitStack() as stack:
        if request.param == "native":
            yield await stack.enter_async_context(harbour(tmp_path, layer, kind=Native))
            return
        nursery = await stack.enter_async_context(trio.open_nursery())
        machine = Machine(Random(1), nursery, lambda: 1)
        simulated = Simulated(machine)
        await nursery.start(simulated.runtime.run)
        yield simulated
        machine.close()
        nursery.cancel_scope.cancel()


async def exit_of(runtime: Runtime, launch: Launch, exec_id: str = "") -> Exit:
    with trio.fail_after(DEADLINE_S):
        async for exit_ in runtime.exits():
            if (exit_.container_id, exit_.run, exit_.exec_id) == (launch.container_id, launch.run, exec_id):
                return exit_
    raise AssertionError("exits never end")


async def gone(place: Place, launch: Launch) -> None:
    with trio.fail_after(DEADLINE_S):
        while place.has_group(launch.container_id):
            await trio.sleep(0.02)


@pytest.mark.parametrize(
    ("args", "code"), [(("true",), 0), (("sh", "-c", "exit 42"), 42), (("sh", "-c", "exit 255"), 255)]
)
async def test_exit_codes_are_the_processes_own(place: Place, args: tuple[str, ...], code: int) -> None:
    launch = place.launch(*args)
    await place.runtime.start(launch)
    assert (await exit_of(place.runtime, launch)).exit_code == code


async def test_a_killed_process_exits_with_128_and_the_signal(place: Place) -> None:
    launch = place.launch("sleep", "60")
    await place.runtime.start(launch)
    await place.runtime.signal(launch.container_id, signal.SIGTERM)  # to a first process that does not handle it
    await place.runtime.signal(launch.container_id, signal.SIGKILL)
    assert (await exit_of(place.runtime, launch)).exit_code == 137
    await place.runtime.signal(launch.container_id, signal.SIGTERM)  # gone already: no error


async def test_a_program_that_does_not_exist_fails_the_start_and_leaves_nothing(place: Place) -> None:
    launch = place.launch("nosuchcmd")
    with pytest.raises(PortError) as caught:
        await place.runtime.start(launch)
    assert (caught.value.exit_code, caught.value.fault) == (127, Fault.INVALID)
    assert 'exec: "nosuchcmd": executable file not found in $PATH' in caught.value.message
    inventory = await place.runtime.list()
    assert inventory.running == inventory.exits == ()
    await gone(place, launch)


async def test_start_is_idempotent_by_id_and_run(place: Place) -> None:
    launch = place.launch("sleep", "60")
    pid = await place.runtime.start(launch)
    assert await place.runtime.start(launch) == pid
    assert [running.pid for running in (await place.runtime.list()).running] == [pid]


async def test_a_second_run_beside_the_first_is_refused(place: Place) -> None:
    launch = place.launch("sleep", "60")
    await place.runtime.start(launch)
    with pytest.raises(PortError, match="runs already"):
        await place.runtime.start(replace(launch, run=2))
    assert [running.run for running in (await place.runtime.list()).running] == [1]


async def test_an_exit_is_kept_until_it_is_forgotten_and_its_group_goes_with_it(place: Place) -> None:
    launch = place.launch("true")
    await place.runtime.start(launch)
    exit_ = await exit_of(place.runtime, launch)
    assert (await place.runtime.list()).exits == (exit_,)
    assert place.has_group(launch.container_id)
    for _ in range(2):
        await place.runtime.forget(launch.container_id, launch.run)
    await gone(place, launch)
    assert (await place.runtime.list()).exits == ()


async def test_a_second_run_starts_right_after_the_first_is_forgotten(place: Place) -> None:
    launch = place.launch("true")
    for run in (1, 2):
        again = replace(launch, run=run)
        await place.runtime.start(again)
        assert (await exit_of(place.runtime, again)).run == run
        await place.runtime.forget(launch.container_id, run)
    await gone(place, launch)


async def test_exec_reports_its_own_exit_and_ends_with_its_container(place: Place) -> None:
    launch = place.launch("sleep", "60")
    await place.runtime.start(launch)
    ends, stays = place.exec_of(launch, "sh", "-c", "exit 5"), place.exec_of(launch, "sleep", "60")
    for command in (ends, stays):
        await place.runtime.execute(command)
    assert (await exit_of(place.runtime, launch, ends.exec_id)).exit_code == 5
    await place.runtime.forget(launch.container_id, launch.run, exec_id=ends.exec_id)
    assert {running.exec_id for running in (await place.runtime.list()).running} == {"", stays.exec_id}
    await place.runtime.signal(launch.container_id, signal.SIGKILL)
    assert (await exit_of(place.runtime, launch, stays.exec_id)).exit_code == 137


async def test_an_exec_that_can_not_run_says_so_and_spares_the_container(place: Place) -> None:
    launch = place.launch("sleep", "60")
    await place.runtime.start(launch)
    with pytest.raises(PortError) as caught:
        await place.runtime.execute(place.exec_of(launch, "nosuchcmd"))
    assert (caught.value.exit_code, caught.value.fault) == (127, Fault.INVALID)
    assert caught.value.message.startswith("OCI runtime exec failed: exec failed: ")
    assert len((await place.runtime.list()).running) == 1


async def test_an_exec_in_nothing_is_refused(place: Place) -> None:
    launch = place.launch("true")
    with pytest.raises(PortError, match="is not running"):
        await place.runtime.execute(place.exec_of(launch, "true"))


async def test_a_frozen_container_ends_once_it_is_thawed(place: Place) -> None:
    launch = place.launch("sleep", "60")
    await place.runtime.start(launch)
    await place.runtime.freeze(launch.container_id)
    assert [running.paused for running in (await place.runtime.list()).running] == [True]
    await place.runtime.signal(launch.container_id, signal.SIGKILL)
    with contextlib.suppress(PortError):  # where a frozen process can be killed, nothing is left to thaw
        await place.runtime.thaw(launch.container_id)
    assert (await exit_of(place.runtime, launch)).exit_code == 137


async def test_what_does_not_run_is_neither_frozen_nor_updated(place: Place) -> None:
    launch = place.launch("true")
    for refused in (place.runtime.freeze, place.runtime.thaw):
        with pytest.raises(PortError, match="is not running") as caught:
            await refused(launch.container_id)
        assert caught.value.fault is Fault.CONFLICT
    with pytest.raises(PortError, match="is not running") as caught:
        await place.runtime.update(launch.container_id, {"memory": {"limit": 64 << 20}})
    assert caught.value.fault is Fault.CONFLICT


async def test_a_new_engine_finds_what_runs_and_what_ended(place: Place) -> None:
    stays, ends = place.launch("sleep", "60"), place.launch("sleep", "60")
    for launch in (stays, ends):
        await place.runtime.start(launch)
    await place.runtime.signal(ends.container_id, signal.SIGKILL)
    await exit_of(place.runtime, ends)
    second = place.another_engine()
    async with trio.open_nursery() as nursery:
        await nursery.start(second.run)
        inventory = await second.list()
        assert [running.container_id for running in inventory.running] == [stays.container_id]
        assert inventory.exits == (await exit_of(second, ends),)
        nursery.cancel_scope.cancel()


async def test_a_supervisor_that_is_lost_is_replaced_and_its_containers_are_reported(place: Place) -> None:
    """SYS-09."""
    launch = place.launch("sleep", "60")
    await place.runtime.start(launch)
    await place.lose_supervisor()
    exit_ = await exit_of(place.runtime, launch)
    assert (exit_.exit_code, exit_.lost) == (255, True)
    inventory = await place.runtime.list()
    assert inventory.running == ()
    assert inventory.orphans == (launch.container_id,)
    await place.runtime.forget(launch.container_id, launch.run)
    await gone(place, launch)


async def attached_before_the_start(place: Place, launch: Launch, client: socket.socket) -> str:
    """How the attach ended."""
    ends: list[str] = []
    registered = trio.Event()

    async def attach() -> None:
        end = await place.runtime.attach(
            launch.container_id,
            client.fileno(),
            stdin=False,
            stdout=True,
            stderr=True,
            multiplexed=False,
            registered=registered.set,
        )
        ends.append(end.reason)

    with trio.fail_after(DEADLINE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(attach)
            await registered.wait()
            await place.runtime.start(launch)
    return ends[0]


async def test_who_attaches_before_the_start_hears_all_of_it(place: Place) -> None:
    """The Streams port: the socket that was given is a copy, and the end of the output is an end."""
    launch = place.launch("echo", "ahoy")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert await attached_before_the_start(place, launch, theirs) == "eof"
        ours.setblocking(False)
        assert ours.recv(100) == b"ahoy\n"
    await exit_of(place.runtime, launch)
    with trio.fail_after(DEADLINE_S):
        await place.runtime.drained(launch.container_id, launch.run)


async def test_a_client_that_has_gone_holds_nobody_up(place: Place) -> None:
    launch = place.launch("echo", "ahoy")
    ours, theirs = socket.socketpair()
    ours.close()
    with theirs:
        assert await attached_before_the_start(place, launch, theirs) == "gone"
    assert (await exit_of(place.runtime, launch)).exit_code == 0
