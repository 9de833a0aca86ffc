"""Clients that break off, half-close, send noise or never read: nothing of them is left, and others are served."""

from __future__ import annotations

import contextlib
import os
import random
import socket

import pytest
import trio

from engine.api.app import EngineApp
from tests.api.harness import connected, in_thread, served
from tests.api.test_server import Bodies, Endless, errors_routes, hijack_routes

HEAD = b" HTTP/1.1\r\nHost: d\r\n"
UPGRADE = b"Upgrade: tcp\r\nConnection: Upgrade\r\n"
REQUESTS = (
    b"GET /_ping" + HEAD + b"\r\n",
    b"GET /endless" + HEAD + b"\r\n",
    b"PUT /whole" + HEAD + b"Content-Length: 500000\r\n\r\n" + bytes(100_000),
    b"PUT /refuse" + HEAD + b"Content-Length: 5000000\r\n\r\n" + bytes(50_000),
    b"POST /echo" + HEAD + UPGRADE + b"Content-Length: 2\r\n\r\n{}abc",
    b"POST /echo" + HEAD + b"Content-Length: 2\r\n\r\n{}abc",
    b"GET /raise/conflict" + HEAD + b"\r\nGET /endless" + HEAD + b"\r\n",
    b"POST /progress/late" + HEAD + b"\r\n",
    b"\x00\x01noise\r\n\r\n",
    b"GET /_ping HT",
)


def routes(app: EngineApp) -> None:
    bodies = Bodies()
    bodies.go_on.set()
    for register in (Endless().register, bodies.register, hijack_routes, errors_routes):
        register(app)


def be_rude(path: str, draw: random.Random) -> None:
    with contextlib.closing(connected(path)) as sock, contextlib.suppress(OSError):
        sock.settimeout(0.1)
        sock.sendall(draw.choice(REQUESTS))
        match draw.randrange(4):
            case 0:
                sock.recv(draw.randrange(1, 5000))
            case 1:
                sock.shutdown(socket.SHUT_WR)
            case 2:
                while sock.recv(4096):
                    pass


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_rude_clients_leave_nothing_behind(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    async with served(routes) as engine:
        await engine.ask("GET", "/_ping")
        descriptors, tasks = len(os.listdir("/proc/self/fd")), trio.lowlevel.current_statistics().tasks_living

        def hammer(number: int) -> None:
            draw = random.Random(seed * 1000 + number)
            for _ in range(25):
                be_rude(engine.path, draw)

        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(in_thread, lambda number=number: hammer(number))
        with trio.fail_after(5):
            while trio.lowlevel.current_statistics().tasks_living > tasks:
                await trio.sleep(0.05)  # lingering connections end by themselves within half a second
        assert len(os.listdir("/proc/self/fd")) <= descriptors
        assert (await engine.ask("GET", "/_ping"))[0] == 200
        assert "a connection broke" not in caplog.text
