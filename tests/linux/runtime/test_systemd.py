"""RES-01: talking to systemd, against a manager that answers as the real one does, in the order the real one does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import trio
from jeepney import HeaderFields, Message, new_error, new_method_return, new_signal
from jeepney.low_level import Parser

from engine.drivers.linux.runtime import systemd
from engine.drivers.linux.runtime.container_groups import ContainerGroups
from engine.drivers.linux.runtime.host import HostFacts
from engine.drivers.linux.runtime.scope_plan import Scope
from engine.errors import PortError

SCOPE = Scope(name="docker-x.scope", slice="system.slice")


class Manager:
    """A systemd whose units are names. results: of jobs to come; the rest are `done`."""

    def __init__(self) -> None:
        self.units: dict[str, dict[str, Any]] = {}
        self.results: list[str] = []
        self.on_reset: Callable[[], None] = lambda: None
        self.asked: list[str] = []
        self._serials = count(1)

    async def serve(self, stream: trio.SocketStream) -> None:
        data = b""
        while b"BEGIN\r\n" not in data:
            more = await stream.receive_some()
            data += more
            if more.endswith(b"\r\n") and b"BEGIN" not in data:
                await stream.send_all(b"OK 0123456789abcdef0123456789abcdef\r\n" if b"AUTH" in more else b"ERROR\r\n")
        parser = Parser()
        parser.add_data(data.partition(b"BEGIN\r\n")[2])
        while True:
            while (question := parser.get_next_message()) is not None:
                for answer in self._answers(question):
                    await stream.send_all(answer.serialise(next(self._serials)))
            received = await stream.receive_some()
            if not received:
                return
            parser.add_data(bytes(received))

    def _answers(self, question: Message) -> list[Message]:
        method = str(question.header.fields[HeaderFields.member])
        self.asked.append(method)
        body = question.body
        if method == "StartTransientUnit":
            name = body[0]
            if name in self.units:
                words = f"Unit {name} was already loaded or has a fragment file."
                return [new_error(question, "org.freedesktop.systemd1.UnitExists", "s", (words,))]
            self.units[name] = {key: value for key, (_, value) in body[2]}
            result = self.results.pop(0) if self.results else "done"
            other = new_signal(systemd.MANAGER, "JobRemoved", "uoss", (1, "/job/1", "other.service", "failed"))
            ours = new_signal(systemd.MANAGER, "JobRemoved", "uoss", (2, "/job/2", name, result))
            return [other, ours, new_method_return(question, "o", ("/job/2",))]  # a quick job ends before it is told
        if method == "ResetFailedUnit":
            self.on_reset()
        if method in ("SetUnitProperties", "StopUnit", "ResetFailedUnit") and body[0] not in self.units:
            words = f"Unit {body[0]} not loaded."
            return [new_error(question, "org.freedesktop.systemd1.NoSuchUnit", "s", (words,))]
        if method == "SetUnitProperties":
            self.units[body[0]] |= {key: value for key, (_, value) in body[2]}
        return [new_method_return(question)]


@asynccontextmanager
async def managed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Manager]:
    monkeypatch.setattr(systemd, "SYSTEM_BUS", str(tmp_path / "no-bus"))
    monkeypatch.setattr(systemd, "PRIVATE", str(tmp_path / "private"))
    manager = Manager()
    listening = trio.socket.socket(trio.socket.AF_UNIX)
    await listening.bind(str(tmp_path / "private"))
    listening.listen()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, manager.serve, [trio.SocketListener(listening)])
        yield manager
        nursery.cancel_scope.cancel()


async def test_a_scope_is_there_when_its_job_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with managed(tmp_path, monkeypatch) as manager:
        limits = [("MemoryMax", ("t", 9)), ("AllowedCPUs", ("ay", b"\x01"))]
        await systemd.start_scope(SCOPE, 7, limits, description="x")
        unit = manager.units[SCOPE.name]
        assert (unit["PIDs"], unit["Slice"], unit["Delegate"], unit["MemoryMax"]) == ([7], "system.slice", True, 9)
        assert manager.asked == ["Subscribe", "StartTransientUnit"]


async def test_a_unit_on_its_way_out_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with managed(tmp_path, monkeypatch) as manager:
        manager.units[SCOPE.name] = {}
        manager.on_reset = manager.units.clear
        await systemd.start_scope(SCOPE, 7, [], description="x")
        assert manager.asked.count("StartTransientUnit") == 2


async def test_a_job_that_fails_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusal: PortError | None = None
    async with managed(tmp_path, monkeypatch) as manager:
        manager.results = ["failed"]
        try:
            await systemd.start_scope(SCOPE, 7, [], description="x")
        except PortError as error:
            refusal = error
    assert refusal is not None
    assert refusal.message == "error creating systemd unit `docker-x.scope`: got `failed`"


async def test_what_is_not_there_can_be_stopped_and_not_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusal: PortError | None = None
    async with managed(tmp_path, monkeypatch):
        await systemd.stop_scope(SCOPE)
        try:
            await systemd.set_properties(SCOPE, [("TasksMax", ("t", 5))])
        except PortError as error:
            refusal = error
    assert refusal is not None
    assert refusal.message == "SetUnitProperties: Unit docker-x.scope not loaded."


async def test_a_unit_whose_group_is_gone_already_goes_with_its_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """systemd looks at the group to see that it is empty. When the group is removed before, it keeps the unit."""
    transient = tmp_path / "transient"
    transient.mkdir()
    monkeypatch.setattr(systemd, "TRANSIENT", str(transient))
    groups = ContainerGroups(str(tmp_path / "claims"), HostFacts(version=2, unified=str(tmp_path)))
    groups.learn({"x": SCOPE.path})
    async with managed(tmp_path, monkeypatch) as manager:
        manager.units[SCOPE.name] = {}
        (transient / SCOPE.name).touch()
        await groups.leave_scope("x")
        assert manager.asked == ["StopUnit"]
        (transient / SCOPE.name).unlink()
        await groups.leave_scope("x")
        assert manager.asked == ["StopUnit"], "it is gone, and nobody is asked"


async def test_without_systemd_there_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "SYSTEM_BUS", str(tmp_path / "no-bus"))
    monkeypatch.setattr(systemd, "PRIVATE", str(tmp_path / "nobody"))
    with pytest.raises(PortError, match="cannot talk to systemd"):
        await systemd.stop_scope(SCOPE)
