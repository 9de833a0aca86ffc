"""Children that end at once: what goes wrong with one is not the others' loss."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from engine.drivers.linux.runtime.supervisor.server import Supervisor


def test_an_end_that_cannot_be_told_does_not_hide_the_next_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One signal stands for several children, so whoever comes behind the one that fails is woken for by nobody."""
    readable, writable = os.pipe()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        supervisor = Supervisor(listener, str(tmp_path), str(tmp_path))
        ended, told = ["bad", "good", "another"], []

        def reap() -> None:
            while ended:
                if (child := ended.pop(0)) == "bad":
                    raise ValueError(child)
                told.append(child)

        monkeypatch.setattr(supervisor._lives, "reap", reap)
        supervisor._loop.watch(readable, lambda events: supervisor._on_child(readable))
        os.write(writable, b"\0")
        supervisor._loop.turn(0)
        assert told == ["good", "another"]
    os.close(readable)
    os.close(writable)
