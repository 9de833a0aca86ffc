"""`?at=`: reads of what was (WIN-06), an extension of the API.

Owns: which paths know it, the moment that is meant, and answering with the very routes that answer for the present,
over views and a clock of that moment. A path that does not know it says so: a parameter that asks for the past must
never be answered with the present.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any, cast

import msgspec
import trio

from engine.aggregates.decider import Reason, Rejected
from engine.aggregates.values.sealed import Sealed
from engine.api.app import EngineApp
from engine.api.context import ApiContext
from engine.api.moments import moment_ns
from engine.api.params import Query
from engine.api.request import Request
from engine.api.responses import Response
from engine.errors import Fault, PortError

PARAMETER = "at"
PATHS = re.compile(r"/containers/json|/containers/[^/]+/json|/images/json|/networks|/networks/.+|/volumes|/volumes/.+")
PRESENT_ONLY = ("size", "shared-size", "manifests", "identity")
"""Parameters that ask the disk, which has no past."""
ERASED = b'["<erased>"]'


class Past:
    """One engine's past. build: puts the reading routes over a context."""

    def __init__(self, context: ApiContext, build: Callable[[ApiContext], EngineApp]) -> None:
        self._context = context
        self._build = build
        self._limiter = trio.CapacityLimiter(1)

    async def answer(self, request: Request) -> Response:
        """Raises Rejected(INVALID) for what has no past, and for a moment that has not come."""
        query = Query.of(request)
        if request.method not in ("GET", "HEAD") or not PATHS.fullmatch(request.path):
            raise Rejected(
                Reason.INVALID,
                f"{request.method} {request.path} does not know the parameter `at`: it is for listing and inspecting "
                "containers, networks and volumes, and for listing images",
            )
        for name in PRESENT_ONLY:
            if query.flag(name):
                raise Rejected(Reason.INVALID, f"`{name}` asks the disk, which has no past: it can not go with `at`")
        then = await trio.to_thread.run_sync(self._then, query.text(PARAMETER), limiter=self._limiter)
        view, arguments = self._build(then).routes.match(request.method, request.path)
        return await view(**arguments)

    def _then(self, text: str) -> ApiContext:
        """The context as of a moment. Blocking."""
        from engine.past import views_at  # here: who never asks for the past never loads it

        application = self._context.application
        now_ns = self._context.clock.now_ns()
        position, time_ns = application.position, now_ns
        if re.fullmatch(r"@[0-9]{1,19}", text, re.ASCII):
            position = int(text[1:])
            found = application.read(position - 1, 1) if 0 < position <= application.position else ()
            time_ns = found[0].time_ns if found else 0
        else:
            time_ns = moment_ns(text, now_ns=now_ns)
            position = application.position_before(time_ns + 1)
        if position > application.position or time_ns > now_ns:
            raise Rejected(Reason.INVALID, f"`at` {text!r} has not come yet: the log ends at @{application.position}")
        views = views_at(application.archive, application.read, position)
        return dataclasses.replace(
            self._context,
            views=views,
            clock=_Stopped(time_ns),
            vault=cast(Any, _Forgiving(self._context.vault)),
            recent_health=lambda state: state.health.log,
        )


class _Stopped(msgspec.Struct, frozen=True):
    """A clock that shows one moment."""

    time_ns: int

    def now_ns(self) -> int:
        return self.time_ns


class _Forgiving:
    """The vault for who looks back: values whose keys are erased are told as such."""

    def __init__(self, vault: Any) -> None:
        self._vault = vault

    def open(self, sealed: Sealed) -> bytes:
        try:
            return bytes(self._vault.open(sealed))
        except PortError as error:
            if error.fault is not Fault.NOT_FOUND:
                raise
            return ERASED
