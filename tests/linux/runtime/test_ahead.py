"""The child that waits inside a container while the engine commits that its exec shall be."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable

import pytest
import trio
from msgspec.structs import replace

from engine.aggregates.values.config import HostConfig
from engine.drivers.linux.runtime.supervisor.ahead import ROOM
from engine.drivers.ports.runtime import ExecLaunch, Launch
from engine.errors import PortError
from tests.support.containers import Harbour

pytestmark = pytest.mark.root
PRIVATE = HostConfig(cgroupns_mode="private", ipc_mode="private", shm_size=64 << 20)


@contextlib.asynccontextmanager
async def attached(port: Harbour, command: ExecLaunch) -> AsyncIterator[socket.socket]:
    """A client of an exec that is not there yet."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(10)
        async with trio.open_nursery() as nursery:
            registered = trio.Event()
            nursery.start_soon(
                lambda: port.runtime.attach(
                    command.container_id,
                    theirs.fileno(),
                    exec_id=command.exec_id,
                    stdin=False,
                    stdout=True,
                    stderr=True,
                    multiplexed=False,
                    registered=registered.set,
                )
            )
            await registered.wait()
            yield ours
            nursery.cancel_scope.cancel()


async def sleeper(port: Harbour, host: HostConfig = PRIVATE) -> tuple[Launch, int]:
    launch = port.launch("sleep", "60", host=host)
    return launch, await port.runtime.start(launch)


async def inhabited(port: Harbour) -> tuple[Launch, int, str]:
    """A sleeper, its pid, and its pid namespace."""
    launch, first = await sleeper(port)
    return launch, first, os.readlink(f"/proc/{first}/ns/pid")


def others_in(namespace: str, first: int) -> set[int]:
    """Who else is in a pid namespace."""
    found = set()
    for entry in os.listdir("/proc"):
        if entry.isdecimal() and int(entry) != first:
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{entry}/ns/pid") == namespace:
                    found.add(int(entry))
    return found


async def until(fact: Callable[[], object]) -> None:
    with trio.fail_after(10):
        while not fact():
            await trio.sleep(0.01)


async def test_it_becomes_the_exec(port: Harbour) -> None:
    launch, first, namespace = await inhabited(port)
    command = port.exec_of(launch, "sh", "-c", "echo here; exec sleep 50")
    async with attached(port, command) as client:
        await until(lambda: others_in(namespace, first))
        (waiting,) = others_in(namespace, first)
        assert await port.runtime.execute(command) == waiting
        assert await trio.to_thread.run_sync(client.recv, 100) == b"here\n"
        assert others_in(namespace, first) == {waiting}


async def test_one_that_nobody_asks_for_goes(port: Harbour) -> None:
    launch, first, namespace = await inhabited(port)
    async with attached(port, port.exec_of(launch, "true")):
        await until(lambda: others_in(namespace, first))
        await until(lambda: not others_in(namespace, first))


async def test_an_exec_that_is_created_is_approached(port: Harbour) -> None:
    """Before anybody attaches; whoever attaches then finds the same child."""
    launch, first, namespace = await inhabited(port)
    command = port.exec_of(launch, "sh", "-c", "echo here; exec sleep 50")
    port.runtime.approach(command.container_id, command.exec_id)
    await until(lambda: others_in(namespace, first))
    (waiting,) = others_in(namespace, first)
    async with attached(port, command) as client:
        port.runtime.expect(command)
        assert await port.runtime.execute(command) == waiting
        assert await trio.to_thread.run_sync(client.recv, 100) == b"here\n"


async def test_those_that_nobody_asks_for_are_few_and_go(port: Harbour) -> None:
    launch, first, namespace = await inhabited(port)
    for number in range(3 * ROOM):
        port.runtime.approach(launch.container_id, f"{number:064x}")
    await until(lambda: len(others_in(namespace, first)) == ROOM)
    await until(lambda: not others_in(namespace, first))


@pytest.mark.parametrize("uid", [0, 1000])
@pytest.mark.parametrize("no_new_privileges", [False, True])
async def test_its_filter_and_rights_are_those_of_any_exec(port: Harbour, uid: int, no_new_privileges: bool) -> None:
    """SEC-03: though the filter is there before the word to run."""
    launch, first, namespace = await inhabited(port)

    async def status(*, ahead: bool) -> list[bytes]:
        script = "cat /proc/self/status; unshare -U true 2>&1; rmdir /tmp 2>&1; mkdir /tmp 2>&1; echo over"
        command = port.exec_of(launch, "sh", "-c", script)
        user = {"uid": uid, "gid": uid, "additionalGids": [uid]}
        process = {**command.process, "noNewPrivileges": no_new_privileges, "user": user}
        command = replace(command, process=process)
        async with attached(port, command) as client:
            await until(lambda: others_in(namespace, first))
            if ahead:
                port.runtime.expect(command)
            else:
                (waiting,) = others_in(namespace, first)
                os.kill(waiting, signal.SIGKILL)
                await until(lambda: not others_in(namespace, first))
            await port.runtime.execute(command)
            text = b""
            while b"over" not in text:
                text += await trio.to_thread.run_sync(client.recv, 65536)
        await until(lambda: not others_in(namespace, first))
        wanted = (b"Cap", b"NoNew", b"Seccomp", b"Uid", b"Gid", b"Groups", b"unshare", b"mkdir", b"rmdir")
        return [line for line in text.splitlines() if line.startswith(wanted)]

    assert (told := await status(ahead=True)) == await status(ahead=False)
    assert b"Seccomp:\t2" in told
    assert b"NoNewPrivs:\t%d" % no_new_privileges in told


async def test_without_it_the_exec_is_forked_anew(port: Harbour) -> None:
    launch, first, namespace = await inhabited(port)
    command = port.exec_of(launch, "echo", "anew")
    async with attached(port, command) as client:
        await until(lambda: others_in(namespace, first))
        (waiting,) = others_in(namespace, first)
        os.kill(waiting, signal.SIGKILL)
        await until(lambda: not os.path.exists(f"/proc/{waiting}"))
        assert await port.runtime.execute(command) not in (0, waiting)
        assert await trio.to_thread.run_sync(client.recv, 100) == b"anew\n"


async def test_it_is_told_what_to_become_and_waits(port: Harbour) -> None:
    launch, first, namespace = await inhabited(port)
    command = port.exec_of(launch, "sh", "-c", "pwd; exec sleep 50")
    command = replace(command, process={**command.process, "cwd": "/etc"})
    async with attached(port, command) as client:
        await until(lambda: others_in(namespace, first))
        (waiting,) = others_in(namespace, first)
        port.runtime.expect(command)
        await trio.sleep(0.1)
        assert not os.readlink(f"/proc/{waiting}/cwd").endswith("/etc"), "it went there before the exec was asked for"
        assert await port.runtime.execute(command) == waiting
        assert await trio.to_thread.run_sync(client.recv, 100) == b"/etc\n"


async def test_told_something_else_than_is_asked_for(port: Harbour) -> None:
    launch, first, namespace = await inhabited(port)
    command = port.exec_of(launch, "echo", "asked for")
    async with attached(port, command) as client:
        await until(lambda: others_in(namespace, first))
        port.runtime.expect(replace(command, process={**command.process, "args": ["echo", "expected"]}))
        await port.runtime.execute(command)
        assert await trio.to_thread.run_sync(client.recv, 100) == b"asked for\n"


async def test_told_of_what_cannot_be(port: Harbour) -> None:
    launch, first, namespace = await inhabited(port)
    command = port.exec_of(launch, "nosuchcmd")
    async with attached(port, command):
        await until(lambda: others_in(namespace, first))
        port.runtime.expect(command)
        with pytest.raises(PortError) as failed:
            await port.runtime.execute(command)
        assert failed.value.exit_code == 127
        await until(lambda: not others_in(namespace, first))


async def test_told_and_then_forgotten(port: Harbour) -> None:
    launch, first, namespace = await inhabited(port)
    command = port.exec_of(launch, "true")
    async with attached(port, command):
        await until(lambda: others_in(namespace, first))
        port.runtime.expect(command)
        await until(lambda: not others_in(namespace, first))


async def test_it_goes_with_its_container(port: Harbour) -> None:
    launch, first = await sleeper(port)
    async with attached(port, port.exec_of(launch, "true")):
        await port.runtime.signal(launch.container_id, signal.SIGKILL)
        await port.exit_of(launch)


async def test_a_container_that_may_trace_sees_none(port: Harbour) -> None:
    """It could look into the supervisor's memory, of which the child still has a copy."""
    launch, first = await sleeper(port, replace(PRIVATE, cap_add=("SYS_PTRACE",)))
    namespace = os.readlink(f"/proc/{first}/ns/pid")
    command = port.exec_of(launch, "echo", "traced")
    async with attached(port, command) as client:
        for _ in range(20):
            assert not others_in(namespace, first)
            await trio.sleep(0.005)
        await port.runtime.execute(command)
        assert await trio.to_thread.run_sync(client.recv, 100) == b"traced\n"
