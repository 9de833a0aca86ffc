"""`/containers/{id}/attach` and `/attach/ws`: a client at a container's stdio (EXE-01..05).

The raw way hands the client's socket to the copier; over a websocket the engine stands in between, because the copier
speaks no websocket. Source: moby daemon/attach.go, container_routes.go.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable

import msgspec
import trio

from engine.aggregates.container.lifecycle import Status
from engine.aggregates.container.state import ContainerState
from engine.aggregates.decider import Cause, Reason, Rejected
from engine.api.app import EngineApp
from engine.api.context import ApiContext
from engine.api.detach import detach_keys
from engine.api.hijack import HIJACKED, hijack
from engine.api.notes import note
from engine.api.params import Query, cause_of
from engine.api.responses import Response
from engine.api.routes.container_logs import backlog
from engine.api.streams import current_request
from engine.api.versions import ApiVersion

EXIT_WAIT_S = 1.0
"""How long the end of the output waits for the exit, so that who asks for the code next finds it."""
WEBSOCKET_CHOOSES_SINCE = (1, 42)
"""Before, a websocket was attached to all three streams whatever it said."""


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What a client wants to be attached to."""

    stdin: bool
    stdout: bool
    stderr: bool
    logs: bool
    stream: bool
    keys: bytes

    @classmethod
    def of(cls, query: Query, state: ContainerState, *, every: bool = False) -> Wish:
        """every: all three streams, whatever is said. Raises Rejected(INVALID) for bad detach keys."""
        keys = detach_keys(query.text("detachKeys"))
        return cls(
            stdin=(every or query.flag("stdin")) and state.config.open_stdin,
            stdout=every or query.flag("stdout"),
            stderr=every or query.flag("stderr"),
            logs=query.flag("logs"),
            stream=query.flag("stream"),
            keys=keys if state.config.tty else b"",
        )


class Attachment:
    """One client's way through an attach, free of what carries its bytes."""

    def __init__(self, context: ApiContext, state: ContainerState, wish: Wish, cause: Cause) -> None:
        self._context = context
        self._state = state
        self._wish = wish
        self._cause = cause

    async def run(
        self,
        send: Callable[[bytes], Awaitable[None]],
        fd: Callable[[], int],
        *,
        multiplexed: bool,
        early_input: bytes = b"",
    ) -> None:
        """The log so far, if wanted, then the streams until they end. fd: the socket to give to the copier."""
        context, wish, container_id = self._context, self._wish, self._state.container_id
        if wish.logs:
            written = backlog(context, self._state, stdout=wish.stdout, stderr=wish.stderr, multiplexed=multiplexed)
            async for batch in written:
                await send(batch)
        if not wish.stream:
            return
        end = await context.ports.streams.attach(
            container_id,
            fd(),
            stdin=wish.stdin,
            stdout=wish.stdout,
            stderr=wish.stderr,
            multiplexed=multiplexed,
            detach_keys=wish.keys,
            early_input=early_input,
        )
        if end.reason == "detached":
            await note(context, container_id, self._cause, "detach")
        if end.reason in ("eof", "aborted"):
            with trio.move_on_after(EXIT_WAIT_S):
                await context.pump.until(f"container:{container_id}", lambda now: not now.alive)

    async def note(self) -> None:
        await note(self._context, self._state.container_id, self._cause, "attach")


def register(app: EngineApp, context: ApiContext) -> None:
    def attachable(name: str) -> ContainerState:
        state: ContainerState = context.views.containers.find(name)
        if state.status is Status.PAUSED:
            raise Rejected(Reason.CONFLICT, f"container {name} is paused, unpause the container before attach")
        if state.status is Status.RESTARTING:
            raise Rejected(Reason.CONFLICT, f"container {name} is restarting, wait until the container is running")
        return state

    def attachment(state: ContainerState, *, every: bool = False) -> Attachment:
        request = current_request()
        wish = Wish.of(Query.of(request), state, every=every)
        return Attachment(context, state, wish, cause_of(request))

    @app.route("/containers/<name>/attach", methods=["POST"])
    async def attach(name: str) -> Response:
        request = current_request()
        await request.body.whole()
        detach_keys(Query.of(request).text("detachKeys"))
        state = attachable(name)
        mine, multiplexed = attachment(state), not state.config.tty
        async with trio.open_nursery() as nursery, hijack(request, multiplexed=multiplexed) as client:
            # Decided before the client has its answer, and so before any start it asks for; nobody waits for the disk.
            nursery.start_soon(mine.note)
            await mine.run(client.send_all, lambda: client.fd, multiplexed=multiplexed, early_input=client.early_input)
        return HIJACKED

    @app.route("/containers/<name>/attach/ws", methods=["GET"])
    async def attach_websocket(name: str) -> Response:
        from engine.api.websocket import bridge, websocket  # here: few attach this way, and every start would load it

        request = current_request()
        detach_keys(Query.of(request).text("detachKeys"))
        mine = attachment(attachable(name), every=_takes_all(request.api_version))
        ours, theirs = socket.socketpair()
        with ours, theirs:
            async with websocket(request) as client, trio.open_nursery() as nursery:
                nursery.start_soon(mine.note)
                nursery.start_soon(bridge, client, ours)
                await mine.run(client.send, theirs.fileno, multiplexed=False)
                theirs.close()  # now the bridge sees the end of the output
        return HIJACKED


def _takes_all(version: ApiVersion) -> bool:
    return version < WEBSOCKET_CHOOSES_SINCE
