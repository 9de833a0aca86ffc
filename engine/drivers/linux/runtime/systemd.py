"""systemd as the owner of cgroups: transient scopes, made and changed over D-Bus.

Owns: the calls, and waiting for the jobs they start. Refuses to know: what limits mean (scope_plan.py), and who is in
a scope. A connection for each call: starts are rare by D-Bus's measure, and none can go stale. Over the system bus, or
over systemd's own socket where a host has no bus.
Source: org.freedesktop.systemd1(5).
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any

import trio
from jeepney import DBusAddress, HeaderFields, MatchRule, Message, MessageType, message_bus, new_method_call
from jeepney.auth import BEGIN, Authenticator
from jeepney.io.trio import DBusConnection, open_dbus_connection

from engine.drivers.linux.runtime.scope_plan import Property, Scope
from engine.errors import Fault, PortError

SYSTEM_BUS = "/run/dbus/system_bus_socket"
PRIVATE = "/run/systemd/private"
TRANSIENT = "/run/systemd/transient"
"""Where a transient unit has its file while systemd knows it."""
DEADLINE_S = 30.0
"""For a job of systemd's, as runc waits."""
RETRY_S = 0.02
MANAGER = DBusAddress("/org/freedesktop/systemd1", "org.freedesktop.systemd1", "org.freedesktop.systemd1.Manager")


class SystemdError(PortError):
    """systemd's answer was an error. name: `org.freedesktop.systemd1.UnitExists` ..."""

    def __init__(self, operation: str, name: str, words: str) -> None:
        super().__init__(operation, words, fault=Fault.SYSTEM)
        self.name = name


async def start_scope(scope: Scope, pid: int, properties: Iterable[Property], *, description: str) -> None:
    """A scope around a process. Returns once its group is there. A unit of that name which is on its way out is
    waited for. Raises PortError."""
    everything: list[Property] = [
        ("Description", ("s", description)),
        ("Slice", ("s", scope.slice)),
        ("Delegate", ("b", True)),
        ("PIDs", ("au", [pid])),
        ("DefaultDependencies", ("b", False)),
        ("CollectMode", ("s", "inactive-or-failed")),
        *((f"{kind}Accounting", ("b", True)) for kind in ("Memory", "CPU", "IO", "Tasks")),
        *properties,
    ]
    body: tuple[Any, ...] = (scope.name, "replace", everything, [])
    try:
        with trio.fail_after(DEADLINE_S):
            while True:
                try:
                    await _job("StartTransientUnit", "ssa(sv)a(sa(sv))", body)
                except SystemdError as refused:
                    if not refused.name.endswith(".UnitExists"):
                        raise
                    await _call("ResetFailedUnit", "s", (scope.name,), missing_is_fine=True)
                    await trio.sleep(RETRY_S)
                else:
                    return
    except trio.TooSlowError as error:
        raise PortError("systemd", f"Timeout waiting for systemd to create {scope.name}") from error


def is_known(scope: Scope) -> bool:
    """Whether systemd still has the unit, with or without a group."""
    return os.path.exists(f"{TRANSIENT}/{scope.name}")


async def stop_scope(scope: Scope) -> None:
    """Nobody is in it any more: systemd may forget it. Idempotent."""
    await _call("StopUnit", "ss", (scope.name, "replace"), missing_is_fine=True)


async def set_properties(scope: Scope, properties: list[Property]) -> None:
    """Of a running scope, until it ends."""
    await _call("SetUnitProperties", "sba(sv)", (scope.name, True, properties))


async def _call(method: str, signature: str, body: tuple[Any, ...], *, missing_is_fine: bool = False) -> None:
    async with _dialogue() as dialogue:
        try:
            await dialogue.ask(method, signature, body)
        except SystemdError as refused:
            if not (missing_is_fine and refused.name.endswith(".NoSuchUnit")):
                raise


async def _job(method: str, signature: str, body: tuple[Any, ...]) -> None:
    """A call whose answer is a job: wait for its end."""
    async with _dialogue() as dialogue:
        await dialogue.listen("JobRemoved")
        (job,) = await dialogue.ask(method, signature, body)
        while True:
            _, path, unit, result = await dialogue.signal()
            if path == job:
                break
    if result != "done":
        raise PortError("systemd", f"error creating systemd unit `{unit}`: got `{result}`")


class Dialogue:
    """One question at a time, and the signals that come between. (jeepney's router would need a task of its own, and
    wrap every error in a group.)"""

    def __init__(self, connection: DBusConnection) -> None:
        self._connection = connection
        self._signals: deque[tuple[Any, ...]] = deque()

    async def ask(self, method: str, signature: str, body: tuple[Any, ...]) -> tuple[Any, ...]:
        return await self._answered(new_method_call(MANAGER, method, signature or None, body))

    async def listen(self, member: str) -> None:
        """Have a signal of the manager's sent to us."""
        await self.ask("Subscribe", "", ())
        if self._connection.unique_name:
            rule = MatchRule(type="signal", interface=MANAGER.interface, member=member, path=MANAGER.object_path)
            await self._answered(message_bus.AddMatch(rule))

    async def signal(self) -> tuple[Any, ...]:
        """What the next one says."""
        while not self._signals:
            self._keep(await self._connection.receive())
        return self._signals.popleft()

    def _keep(self, message: Message) -> None:
        if message.header.fields.get(HeaderFields.member) == "JobRemoved":
            self._signals.append(message.body)

    async def _answered(self, question: Message) -> tuple[Any, ...]:
        serial = next(self._connection.outgoing_serial)
        await self._connection.send(question, serial=serial)
        while True:
            message = await self._connection.receive()
            if message.header.fields.get(HeaderFields.reply_serial) != serial:
                self._keep(message)
            elif message.header.message_type is MessageType.error:
                name = str(message.header.fields.get(HeaderFields.error_name, ""))
                method = str(question.header.fields[HeaderFields.member])
                raise SystemdError(method, name, f"{method}: {message.body[0] if message.body else name}")
            else:
                return tuple(message.body)


@asynccontextmanager
async def _dialogue() -> AsyncIterator[Dialogue]:
    try:
        async with await _open() as connection:
            yield Dialogue(connection)
    except (OSError, trio.BrokenResourceError, trio.EndOfChannel) as error:
        raise PortError("systemd", f"cannot talk to systemd: {error}") from error


async def _open() -> DBusConnection:
    """Of systemd's own socket: without a bus between there is nobody to say hello to."""
    with suppress(FileNotFoundError):
        return await open_dbus_connection(f"unix:path={SYSTEM_BUS}")
    stream = await trio.open_unix_socket(PRIVATE)
    authentication = Authenticator(inc_null_byte=False)
    await stream.send_all(b"\0")
    for request in authentication:
        await stream.send_all(request)
        authentication.feed(await stream.receive_some())
    await stream.send_all(BEGIN)
    return DBusConnection(stream.socket)
