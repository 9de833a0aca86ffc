"""The connection to a log server: what waits, what is dropped, what is sent again; real sockets (LOG-04, LOG-05)."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
import time
import unittest.mock
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.aggregates.values.log_servers import LogServer
from engine.drivers.linux.logs.servers import queue, server
from engine.drivers.linux.runtime.supervisor.logs.journald import send_as_file
from engine.drivers.linux.runtime.supervisor.logs.outlet import Outlet
from engine.drivers.linux.runtime.supervisor.logs.spool import Spool
from engine.drivers.linux.runtime.supervisor.loop import Loop
from tests.support.log_servers import certificate

DEADLINE_S = 20


class Listening:
    """A server that a test accepts from and reads from when it wants to."""

    def __init__(self, port: int = 0) -> None:
        self.socket = socket.create_server(("127.0.0.1", port))
        self.socket.settimeout(DEADLINE_S)
        self.port: int = self.socket.getsockname()[1]
        self.server = server(LogServer(network="tcp", host="127.0.0.1", port=self.port))

    def accept(self) -> socket.socket:
        taken, _ = self.socket.accept()
        taken.settimeout(DEADLINE_S)
        return taken

    def close(self) -> None:
        self.socket.close()


@pytest.fixture
def listening() -> Iterator[Listening]:
    made = Listening()
    with contextlib.closing(made):
        yield made


@pytest.fixture
def loop() -> Loop:
    return Loop()


def turn_until(loop: Loop, fact: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not fact():
        assert time.monotonic() < deadline, "it did not come true"
        loop.turn(0.05)


def outlet(loop: Loop, to: dict, fd: int = -1, on_room: Callable[[], None] = lambda: None, **rules: object) -> Outlet:
    given = {"patience": 0, "wait_s": 0.02, "wait_max_s": 0.1, **rules}
    limits = {name: given.pop(name) for name in ("limit", "lossy") if name in given}
    return Outlet({"server": to, "queue": {**queue({}, **given), **limits}}, fd, loop, on_room)  # type: ignore[arg-type]


def test_it_connects_by_itself_when_there_is_something_to_send(loop: Loop, listening: Listening) -> None:
    way = outlet(loop, listening.server)
    way.give([b"one\n", b"two\n"])
    done: list[int] = []
    way.leave(lambda: done.append(1))
    turn_until(loop, lambda: done)
    with listening.accept() as taken:
        assert taken.makefile("rb").read() == b"one\ntwo\n"
    assert way.lost == 0


def test_a_slow_server_fills_the_queue_and_room_is_told(loop: Loop, listening: Listening) -> None:
    room: list[int] = []
    way = outlet(loop, listening.server, on_room=lambda: room.append(1), limit=100_000)
    entries = [b"%099d\n" % number for number in range(200)]
    given = 0
    while not (way.full and way._ready):
        if not way.full:
            way.give(entries)
            given += len(entries)
        loop.turn(0.01)
    room.clear()
    taken = listening.accept()
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append(taken.makefile("rb").read()))
    reader.start()
    turn_until(loop, lambda: room)
    assert not way.full
    done: list[int] = []
    way.leave(lambda: done.append(1))
    turn_until(loop, lambda: done)
    reader.join()
    taken.close()
    assert received[0] == b"".join(entries) * (given // len(entries))


def test_what_a_lost_server_has_not_taken_goes_to_the_next_one(loop: Loop, listening: Listening) -> None:
    way = outlet(loop, listening.server)
    way.give([b"first\n"])
    turn_until(loop, lambda: way._ready)
    with listening.accept() as taken:
        assert taken.recv(100) == b"first\n"
    listening.close()
    turn_until(loop, lambda: not way._ready)
    way.give([b"second\n"])
    turn_until(loop, lambda: way._failures > 2)
    again = Listening(listening.port)
    turn_until(loop, lambda: way._ready)
    with again.accept() as taken:
        assert taken.recv(100) == b"second\n"
    again.close()
    assert way.lost == 0


def test_a_ring_drops_the_oldest(loop: Loop, listening: Listening) -> None:
    """LOG-05: mode non-blocking."""
    listening.close()
    way = outlet(loop, listening.server, lossy=True, limit=1000)
    way.give([b"%09d\n" % number for number in range(500)])
    assert not way.full
    assert way.lost == 400
    again = Listening(listening.port)
    turn_until(loop, lambda: way._ready)
    with again.accept() as taken:
        assert taken.recv(10) == b"000000400\n"
    again.close()


def test_patience_ends_and_output_flows_again(loop: Loop, listening: Listening) -> None:
    """LOG-05: mode blocking, as moby's drivers give a message up after so many attempts."""
    listening.close()
    room: list[int] = []
    way = outlet(loop, listening.server, patience=3, limit=1000, on_room=lambda: room.append(1))
    way.give([b"%09d\n" % number for number in range(500)])
    assert way.full
    room.clear()
    turn_until(loop, lambda: room)
    assert not way.full
    assert way.lost == 400


def test_an_ended_process_is_not_held_up_for_ever(
    loop: Loop, listening: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.drivers.linux.runtime.supervisor.logs.outlet.LEAVE_S", 0.1)
    listening.close()
    way = outlet(loop, listening.server, limit=10)
    way.give([b"never", b"delivered"])
    assert way.full
    way.hurry()
    assert not way.full
    done: list[int] = []
    way.leave(lambda: done.append(1))
    turn_until(loop, lambda: done)


def test_unacknowledged_entries_are_sent_again(loop: Loop, listening: Listening) -> None:
    """LOG-04: fluentd-request-ack."""
    entries = [b"one-" + b"1" * 24, b"two-" + b"2" * 24]
    way = outlet(loop, listening.server, acks=True)
    way.give(entries)
    turn_until(loop, lambda: way._unacked)
    with listening.accept() as taken:
        assert taken.recv(1000) == b"".join(entries)
        taken.sendall(b"\x81\xa3ack\xb8" + b"1" * 24)
        turn_until(loop, lambda: len(way._unacked) == 1)
    turn_until(loop, lambda: way._dialled_at and not way._unacked)
    done: list[int] = []
    way.leave(lambda: done.append(1))
    turn_until(loop, lambda: way._unacked)
    with listening.accept() as taken:
        assert taken.recv(1000) == entries[1]
        taken.sendall(b"\x81\xa3ack\xd9\x18" + b"2" * 24)
        turn_until(loop, lambda: done)
    assert way.lost == 0


def test_what_waits_is_found_by_the_next_copier(loop: Loop, listening: Listening) -> None:
    """LOG-04: the first one is killed; the supervisor kept what its server had not taken."""
    kept = os.memfd_create("spool")
    listening.close()
    rules = queue({}, patience=0, wait_s=0.02, wait_max_s=0.1)
    spec = {"server": listening.server, "queue": {**rules, "limit": 30_000}}
    once = {**spec, "queue": {**spec["queue"], "wait_s": 60.0, "wait_max_s": 60.0}}  # it does not live to try again
    first = Outlet({**once, "spool_fd": os.dup(kept)}, -1, loop, lambda: None)
    entries = [b"%099d\n" % number for number in range(400)]
    first.give(entries[:300])
    turn_until(loop, lambda: first._failures)  # and from here on it does nothing more
    first.give(entries[300:])
    again = Listening(listening.port)
    second = Outlet({**spec, "spool_fd": os.dup(kept)}, -1, Loop(), lambda: None)
    assert second.full
    done: list[int] = []
    second.leave(lambda: done.append(1))
    turn_until(second._loop, lambda: done)
    with again.accept() as taken:
        assert taken.makefile("rb").read() == b"".join(entries)
    again.close()
    assert os.fstat(kept).st_size == 0
    os.close(kept)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.lists(st.binary(max_size=50), max_size=5)), max_size=20),
    st.integers(0, 100),
)
def test_a_spool_gives_back_what_is_not_done_whatever_happened(steps: list, limit: int) -> None:
    """Against a list; and a torn end is left out."""
    fd = os.memfd_create("spool")
    with unittest.mock.patch("engine.drivers.linux.runtime.supervisor.logs.spool.DEAD_SIZE_MAX", limit):
        spool, model = Spool(fd), []
        for count, entries in steps:
            spool.keep(entries)
            model += entries
            spool.drop(count)
            del model[:count]
            assert Spool(fd).load() == model
            assert len(spool) == len(model)
    if model:
        os.ftruncate(fd, os.fstat(fd).st_size - 1)
        assert Spool(fd).load() == model[:-1]
    os.close(fd)


def test_datagrams_to_nobody_are_lost_and_nothing_else(loop: Loop) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    way = outlet(loop, server(LogServer(network="udp", host="127.0.0.1", port=port)))
    way.give([b"x"] * 3000)
    done: list[int] = []
    way.leave(lambda: done.append(1))
    turn_until(loop, lambda: done)


def test_a_datagram_that_is_too_big_goes_as_a_file(loop: Loop, tmp_path: Path) -> None:
    """LOG-04: as the journal takes it."""
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(path)
        to = server(paths=(("unixgram", path),))
        way = Outlet({"server": to, "queue": queue({}, patience=0)}, -1, loop, lambda: None, send_as_file)
        way.give([b"small", b"B" * 5_000_000])
        assert receiver.recv(100) == b"small"
        data, fds, _, _ = socket.recv_fds(receiver, 100, 1)
        assert data == b""
        with open(fds[0], "rb") as file:
            file.seek(0)
            assert file.read() == b"B" * 5_000_000


def test_tls_is_spoken_and_the_server_checked(loop: Loop, listening: Listening, tmp_path: Path) -> None:
    """LOG-04: tcp+tls."""
    cert, context = certificate(tmp_path)
    received: list[bytes] = []

    def serve() -> None:
        for _ in range(2):
            with contextlib.suppress(ssl.SSLError), context.wrap_socket(listening.accept(), server_side=True) as taken:
                received.append(taken.makefile("rb").read())

    thread = threading.Thread(target=serve)
    thread.start()
    found = LogServer(network="tls", host="127.0.0.1", port=listening.port)
    stranger = outlet(loop, server(found), wait_s=1000.0, wait_max_s=1000.0)
    stranger.give([b"not for you"])
    turn_until(loop, lambda: stranger._failures)
    friend = outlet(loop, server(found, tls={"ca": str(cert)}))
    friend.give([b"%d\n" % number for number in range(50_000)])
    done: list[int] = []
    friend.leave(lambda: done.append(1))
    turn_until(loop, lambda: done)
    thread.join()
    assert received == [b"".join(b"%d\n" % number for number in range(50_000))]
