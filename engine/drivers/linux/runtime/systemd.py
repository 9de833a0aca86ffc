"""systemd as the owner of cgroups: transient scopes, made and changed over D-Bus.

Owns: the calls, and waiting for the jobs they start. Refuses to know: what limits mean (scope_plan.py), and who is in
a scope. A connection for each call: starts are rare by D-Bus's measure, and none can go stale. Over the system bus, or
over systemd's own socket where a host has no bus.
Source: org.freedesktop.systemd1(5).
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any

import trio
from jeepney import DBusAddress, MatchRule, Message, MessageType, message_bus, new_method_call
from jeepney.auth import BEGIN, Authenticator
from jeepney.io.trio import DBusConnection, DBusRouter, open_dbus_connection

from engine.drivers.linux.runtime.scope_plan import Property, Scope
from engine.errors import Fault, PortError

SYSTEM_BUS = "/run/dbus/system_bus_socket"
PRIVATE = "/run/systemd/private"
DEADLINE_S = 30.0
"""For a job of systemd's, as runc waits."""
RETRY_S = 0.02
MANAGER = DBusAddress("/org/freedesktop/systemd1", "org.freedesktop.systemd1", "org.freedesktop.systemd1.Manager")


def reachable() -> bool:
    """Whether this host runs systemd and it can be talked to."""
    return os.path.isdir("/run/systemd/system") and any(map(os.path.exists, (SYSTEM_BUS, PRIVATE)))


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


async def stop_scope(scope: Scope) -> None:
    """Nobody is in it any more: systemd may forget it. Idempotent."""
    await _call("StopUnit", "ss", (scope.name, "replace"), missing_is_fine=True)


async def set_properties(scope: Scope, properties: list[Property]) -> None:
    """Of a running scope, until it ends."""
    await _call("SetUnitProperties", "sba(sv)", (scope.name, True, properties))


async def _call(method: str, signature: str, body: tuple[Any, ...], *, missing_is_fine: bool = False) -> None:
    async with _connected() as router:
        try:
            await _ask(router, method, signature, body)
        except SystemdError as refused:
            if not (missing_is_fine and refused.name.endswith(".NoSuchUnit")):
                raise


async def _job(method: str, signature: str, body: tuple[Any, ...]) -> None:
    """A call whose answer is a job: wait for its end."""
    ended = MatchRule(type="signal", interface=MANAGER.interface, member="JobRemoved", path=MANAGER.object_path)
    async with _connected() as router, router.filter(ended, bufsize=1000) as jobs:
        await _ask(router, "Subscribe", "", ())
        if router.unique_name:
            await router.send_and_get_reply(message_bus.AddMatch(ended))
        (job,) = await _ask(router, method, signature, body)
        async for removed in jobs:
            _, path, unit, result = removed.body
            if path == job:
                if result != "done":
                    raise PortError("systemd", f"error creating systemd unit `{unit}`: got `{result}`")
                return
        raise PortError("systemd", "systemd closed the connection")


async def _ask(router: DBusRouter, method: str, signature: str, body: tuple[Any, ...]) -> tuple[Any, ...]:
    reply: Message = await router.send_and_get_reply(new_method_call(MANAGER, method, signature or None, body))
    if reply.header.message_type is MessageType.error:
        name = str(reply.header.fields.get(4, ""))
        words = reply.body[0] if reply.body else name
        raise SystemdError(method, name, f"{method}: {words}")
    return tuple(reply.body)


@asynccontextmanager
async def _connected() -> AsyncIterator[DBusRouter]:
    try:
        connection = await _open()
    except OSError as error:
        raise PortError("systemd", f"cannot talk to systemd: {error}", errno=error.errno or 0) from error
    async with connection, connection.router() as router:
        yield router


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
