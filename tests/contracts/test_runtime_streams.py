"""The Streams port: attaching before and after the start, frames, input and its end, detaching, slow readers, logs."""

from __future__ import annotations

import os
import signal

import pytest
import trio

from engine.drivers.ports.runtime import Stdio, StreamEnd
from tests.support.containers import DEADLINE_S, Client, Harbour, entries, frames, logged

pytestmark = pytest.mark.root
KEYS = b"\x10\x11"


class Attachment:
    """An attach running in a nursery, and how it ended."""

    def __init__(self, port: Harbour, nursery: trio.Nursery, container_id: str, **options: object) -> None:
        self.client = Client()
        self.end: StreamEnd | None = None
        self.ended, self.registered = trio.Event(), trio.Event()
        wanted = {"stdin": False, "stdout": True, "stderr": True, "multiplexed": False, **options}
        nursery.start_soon(self._hold, port, container_id, wanted)

    async def _hold(self, port: Harbour, container_id: str, wanted: dict[str, object]) -> None:
        fd = self.client.hand_over()
        try:
            self.end = await port.runtime.attach(
                container_id, fd, registered=self.registered.set, **wanted  # type: ignore[arg-type]  # keywords vary
            )
        finally:
            os.close(fd)
            self.ended.set()

    async def reason(self) -> str:
        with trio.fail_after(DEADLINE_S):
            await self.ended.wait()
        assert self.end is not None
        return self.end.reason


async def test_a_client_attached_before_the_start_misses_nothing(port: Harbour) -> None:
    launch = port.launch("sh", "-c", "echo out; echo err >&2")
    async with trio.open_nursery() as nursery:
        attachment = Attachment(port, nursery, launch.container_id, multiplexed=True)
        await attachment.registered.wait()
        await port.runtime.start(launch)
        data = await attachment.client.read_all()
        assert sorted(frames(data)) == [(1, b"out\n"), (2, b"err\n")]
        assert await attachment.reason() == "eof"
    assert sorted(entry["log"] for entry in entries(launch)) == ["err\n", "out\n"]


async def test_only_the_streams_asked_for_arrive(port: Harbour) -> None:
    launch = port.launch("sh", "-c", "echo out; echo err >&2")
    async with trio.open_nursery() as nursery:
        attachment = Attachment(port, nursery, launch.container_id, stdout=False)
        await attachment.registered.wait()
        await port.runtime.start(launch)
        assert await attachment.client.read_all() == b"err\n"


async def test_a_failed_start_ends_the_attachment(port: Harbour) -> None:
    from engine.errors import PortError

    launch = port.launch("nosuchcmd")
    async with trio.open_nursery() as nursery:
        attachment = Attachment(port, nursery, launch.container_id)
        await attachment.registered.wait()
        with pytest.raises(PortError):
            await port.runtime.start(launch)
        assert await attachment.client.read_all() == b""
        assert await attachment.reason() == "aborted"


async def test_half_close_ends_stdin_and_output_still_flows(port: Harbour) -> None:
    launch = port.launch("sh", "-c", "cat; echo done", stdio=Stdio(open_stdin=True, stdin_once=True))
    async with trio.open_nursery() as nursery:
        attachment = Attachment(port, nursery, launch.container_id, stdin=True)
        await attachment.registered.wait()
        await attachment.client.stream.send_all(b"thar she blows\n")
        await attachment.client.stream.send_eof()
        await port.runtime.start(launch)
        assert await attachment.client.read_all() == b"thar she blows\ndone\n"
        assert await attachment.reason() == "eof"
    assert (await port.exit_of(launch)).exit_code == 0


async def test_early_input_comes_before_what_the_socket_holds(port: Harbour) -> None:
    launch = port.launch("cat", stdio=Stdio(open_stdin=True, stdin_once=True))
    async with trio.open_nursery() as nursery:
        attachment = Attachment(port, nursery, launch.container_id, stdin=True, early_input=b"first ")
        await attachment.client.stream.send_all(b"second")
        await attachment.client.stream.send_eof()
        await attachment.registered.wait()
        await port.runtime.start(launch)
        assert await attachment.client.read_all() == b"first second"


async def test_without_stdin_once_the_end_of_input_ends_only_the_attachment(port: Harbour) -> None:
    launch = port.launch("cat", stdio=Stdio(open_stdin=True))
    await port.runtime.start(launch)
    async with trio.open_nursery() as nursery:
        attachment = Attachment(port, nursery, launch.container_id, stdin=True)
        await attachment.client.stream.send_eof()
        assert await attachment.reason() == "gone"
    assert len((await port.runtime.list()).running) == 1


async def test_a_large_input_is_passed_whole(port: Harbour) -> None:
    launch = port.launch("md5sum", stdio=Stdio(open_stdin=True, stdin_once=True))
    async with trio.open_nursery() as nursery:
        attachment = Attachment(port, nursery, launch.container_id, stdin=True)
        await attachment.registered.wait()
        await port.runtime.start(launch)
        await attachment.client.stream.send_all(b"0123456789abcdef" * (1 << 18))
        await attachment.client.stream.send_eof()
        import hashlib

        digest = hashlib.md5(b"0123456789abcdef" * (1 << 18)).hexdigest()
        assert await attachment.client.read_all() == f"{digest}  -\n".encode()


async def test_a_terminal_is_the_containers_own_with_its_size(port: Harbour) -> None:
    launch = port.launch(
        "sh", "-c", "tty; stty size; test -c /dev/console && echo console", stdio=Stdio(tty=True, height=33, width=99)
    )
    code, text = await port.run(launch)
    assert (code, text) == (0, "/dev/pts/0\r\n33 99\r\nconsole\r\n")


async def test_detach_keys_leave_the_process_running_and_do_not_reach_it(port: Harbour) -> None:
    launch = port.launch("cat", stdio=Stdio(tty=True, open_stdin=True))
    await port.runtime.start(launch)
    async with trio.open_nursery() as nursery:
        attachment = Attachment(port, nursery, launch.container_id, stdin=True, detach_keys=KEYS)
        await attachment.client.stream.send_all(b"a\x10b\n")
        await attachment.client.read_until(b"a^Pb")
        await attachment.client.stream.send_all(b"\x10")
        await attachment.client.stream.send_all(b"\x11")
        assert await attachment.reason() == "detached"
    assert len((await port.runtime.list()).running) == 1
    await port.runtime.signal(launch.container_id, signal.SIGKILL)
    await port.exit_of(launch)
    await port.runtime.drained(launch.container_id, 1)
    assert "^P^Q" not in logged(launch)


async def test_resize_reaches_the_process(port: Harbour) -> None:
    script = "trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 0.05; done"
    launch = port.launch("sh", "-c", script, stdio=Stdio(tty=True, height=24, width=80))
    async with trio.open_nursery() as nursery:
        attachment = Attachment(port, nursery, launch.container_id)
        await attachment.registered.wait()
        await port.runtime.start(launch)
        await attachment.client.read_until(b"ready")
        await port.runtime.resize(launch.container_id, 50, 120)
        assert b"50 120" in await attachment.client.read_all()


async def test_a_client_that_leaves_is_noticed_and_the_process_goes_on(port: Harbour) -> None:
    launch = port.launch("sh", "-c", "while :; do echo x; sleep 0.02; done")
    await port.runtime.start(launch)
    async with trio.open_nursery() as nursery:
        attachment = Attachment(port, nursery, launch.container_id)
        await attachment.client.read_until(b"x")
        await attachment.client.stream.aclose()
        assert await attachment.reason() == "gone"
    assert len((await port.runtime.list()).running) == 1


async def test_a_cancelled_attachment_closes_the_clients_socket(port: Harbour) -> None:
    launch = port.launch("sleep", "60")
    await port.runtime.start(launch)
    async with trio.open_nursery() as nursery:
        attachment = Attachment(port, nursery, launch.container_id)
        await attachment.registered.wait()
        await port.runtime.list()  # answers come in order: the attachment has its own
        nursery.cancel_scope.cancel()
    assert await attachment.client.read_all() == b""


async def test_a_slow_client_loses_nothing_and_slows_the_process(port: Harbour) -> None:
    size = 8 << 20
    launch = port.launch("sh", "-c", f"head -c {size} /dev/zero | tr '\\0' 'w'; echo end >&2")
    async with trio.open_nursery() as nursery:
        attachment = Attachment(port, nursery, launch.container_id, stderr=False)
        await attachment.registered.wait()
        await port.runtime.start(launch)
        with trio.move_on_after(0.3):
            await port.exit_of(launch)
            raise AssertionError("the process did not wait for its reader")
        data = await attachment.client.read_all()
    assert data == b"w" * size
    await port.runtime.drained(launch.container_id, 1)
    assert logged(launch, "stdout") == "w" * size


async def test_two_clients_get_the_same_output(port: Harbour) -> None:
    launch = port.launch("seq", "1", "50000")
    async with trio.open_nursery() as nursery:
        both = [Attachment(port, nursery, launch.container_id) for _ in range(2)]
        for attachment in both:
            await attachment.registered.wait()
        await port.runtime.start(launch)
        found: list[bytes] = []

        async def collect(attachment: Attachment) -> None:
            found.append(await attachment.client.read_all())

        async with trio.open_nursery() as readers:
            for attachment in both:
                readers.start_soon(collect, attachment)
    expected = "".join(f"{n}\n" for n in range(1, 50001)).encode()
    assert found == [expected, expected]
    await port.runtime.drained(launch.container_id, 1)
    assert logged(launch).encode() == expected


async def test_exec_streams_are_its_own(port: Harbour) -> None:
    launch = port.launch("sleep", "60")
    await port.runtime.start(launch)
    command = port.exec_of(launch, "sh", "-c", "cat; echo err >&2", stdio=Stdio(open_stdin=True, stdin_once=True))
    async with trio.open_nursery() as nursery:
        attachment = Attachment(
            port, nursery, launch.container_id, exec_id=command.exec_id, stdin=True, multiplexed=True
        )
        await attachment.registered.wait()
        await port.runtime.execute(command)
        await attachment.client.stream.send_all(b"in\n")
        await attachment.client.stream.send_eof()
        assert frames(await attachment.client.read_all()) == [(1, b"in\n"), (2, b"err\n")]
    assert logged(launch) == ""


async def test_an_exec_terminal_works(port: Harbour) -> None:
    launch = port.launch("sleep", "60")
    await port.runtime.start(launch)
    command = port.exec_of(launch, "sh", "-c", "tty; stty size", stdio=Stdio(tty=True, height=10, width=20))
    async with trio.open_nursery() as nursery:
        attachment = Attachment(port, nursery, launch.container_id, exec_id=command.exec_id)
        await attachment.registered.wait()
        await port.runtime.execute(command)
        assert await attachment.client.read_all() == b"/dev/pts/0\r\n10 20\r\n"


async def test_output_held_open_by_a_child_ends_two_seconds_after_the_exec(port: Harbour) -> None:
    launch = port.launch("sleep", "60")
    await port.runtime.start(launch)
    command = port.exec_of(launch, "sh", "-c", "sleep 30 & echo started")
    async with trio.open_nursery() as nursery:
        attachment = Attachment(port, nursery, launch.container_id, exec_id=command.exec_id)
        await attachment.registered.wait()
        await port.runtime.execute(command)
        with trio.fail_after(6):
            assert await attachment.client.read_all() == b"started\n"


async def test_a_killed_copier_is_replaced_and_output_goes_on(port: Harbour) -> None:
    launch = port.launch("sh", "-c", "read a; echo $a; read b; echo $b", stdio=Stdio(open_stdin=True))
    await port.runtime.start(launch)
    async with trio.open_nursery() as nursery:
        first = Attachment(port, nursery, launch.container_id, stdin=True)
        await first.client.stream.send_all(b"one\n")
        await first.client.read_until(b"one\n")
        os.kill((await port.runtime._connection.request("hello"))["copier"], signal.SIGKILL)
        assert await first.reason() == "gone"
        second = Attachment(port, nursery, launch.container_id, stdin=True)
        await second.client.stream.send_all(b"two\n")
        assert await second.client.read_all() == b"two\n"
    assert (await port.exit_of(launch)).exit_code == 0
    await port.runtime.drained(launch.container_id, 1)
    assert logged(launch) == "one\ntwo\n"


async def test_the_log_rotates_by_size_and_keeps_as_many_files_as_asked(port: Harbour) -> None:
    launch = port.launch("seq", "1", "2000", log={"max-size": "20k", "max-file": "3"})
    await port.runtime.start(launch)
    await port.exit_of(launch)
    await port.runtime.drained(launch.container_id, 1)
    sizes = {path.name[-2:]: path.stat().st_size for path in port.directory.glob("*-json.log*")}
    assert set(sizes) == {"og", ".1", ".2"}
    assert all(20_000 <= size < 20_200 for name, size in sizes.items() if name != "og")
    assert entries(launch)[-1]["log"] == "2000\n"


async def test_a_last_line_without_newline_is_logged_without_one(port: Harbour) -> None:
    launch = port.launch("printf", "one\\ntwo")
    await port.run(launch)
    assert [entry["log"] for entry in entries(launch)] == ["one\n", "two"]
