"""`/containers`: create, prune, and the verbs that move one container along.

A verb appends the wish, then waits until the log shows what became of it. Whoever leaves earlier cancels the waiting,
never the wish.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

import trio

from engine import transactions
from engine.aggregates.container import commands as c
from engine.aggregates.container.donors import check_donor, donors
from engine.aggregates.container.lifecycle import STARTABLE, Status
from engine.aggregates.container.state import ContainerState
from engine.aggregates.decider import Cause, Reason, Rejected
from engine.aggregates.values.ids import ContainerID
from engine.aggregates.values.signals import SIGTERM, parse_signal
from engine.api.app import EngineApp
from engine.api.bodies import decode_body
from engine.api.context import ApiContext
from engine.api.creation import CreateBody, Creation
from engine.api.new_container import checked_name
from engine.api.params import Query, cause_of
from engine.api.pruning import PRUNE_FILTERS, alone, prune_label_match, prune_until, tell_pruned
from engine.api.responses import Response
from engine.api.rest import at_rest
from engine.api.streams import current_request, empty, json_response, outlasting

STOP_TIMEOUT_S = 10
STOP_TIMEOUT_MAX_S = 1_000_000_000
"""Who waits longer than thirty years waits for ever."""
UNEXECUTABLE = 128
"""The exit code of a container whose start failed before there was a process. Source: moby daemon/start.go."""
REMOVED_WITHIN_S = 10.0
WAITERS_FIRST_S = 0.01
"""What the client of a start that failed waits for the removal of its container, and then for those who wait for it."""
SIGKILL = 9


Move = Callable[[ContainerState, Query, Cause], Awaitable[None]]


def register(app: EngineApp, context: ApiContext) -> None:
    verbs = Verbs(context)
    pruning = trio.Lock()

    @app.route("/containers/create", methods=["POST"])
    async def create() -> Response:
        request = current_request()
        query = Query.of(request)
        body = await decode_body(request, CreateBody)
        creation = Creation(context, body, request.api_version)
        created = await creation.run(query.text("name"), query.text("platform"), cause_of(request))
        return json_response({"Id": created.id, "Warnings": list(created.warnings)}, 201)

    @app.route("/containers/<name>/start", methods=["POST"])
    async def start(name: str) -> Response:
        request = current_request()
        if (await request.body.whole()).strip() not in (b"", b"{}", b"null"):
            raise Rejected(
                Reason.INVALID,
                "starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24",
            )
        if Query.of(request).text("checkpoint"):
            raise Rejected(Reason.INVALID, "checkpoint is only supported in experimental mode")
        await verbs.start(context.views.containers.find(name), cause_of(request))
        return empty(204)

    for verb, move in verbs.moves().items():
        app.route(f"/containers/<name>/{verb}", methods=["POST"])(partial(_moved, context, move))

    @app.route("/containers/<name>/kill", methods=["POST"])
    async def kill(name: str) -> Response:
        request = current_request()
        signal = parse_signal(Query.of(request).text("signal") or "KILL")
        await verbs.kill(context.views.containers.find(name), signal, cause_of(request))
        return empty(204)

    @app.route("/containers/<path:name>", methods=["DELETE"])
    async def remove(name: str) -> Response:
        request = current_request()
        query = Query.of(request)
        state = context.views.containers.find(name)
        if query.flag("link"):
            await verbs.unlink(name, cause_of(request))
            return empty(204)
        await verbs.remove(state, cause_of(request), force=query.flag("force"), volumes=query.flag("v"))
        return empty(204)

    @app.route("/containers/prune", methods=["POST"])
    async def prune() -> Response:
        request = current_request()
        with alone(pruning):
            return json_response(await verbs.prune(Query.of(request), cause_of(request)))


async def _moved(context: ApiContext, move: Move, name: str) -> Response:
    request = current_request()
    await move(context.views.containers.find(name), Query.of(request), cause_of(request))
    return empty(204)


class Verbs:
    """What the routes do, free of HTTP."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context

    def moves(self) -> dict[str, Move]:
        """Those that move one container along and answer with nothing."""
        return {
            "stop": self.stop,
            "restart": self.restart,
            "pause": partial(self.freeze, c.PauseContainer),
            "unpause": partial(self.freeze, c.UnpauseContainer),
            "rename": self.rename,
        }

    async def start(self, state: ContainerState, cause: Cause) -> None:
        """Returns once the start has its outcome. Raises what it failed with: 400 for a bad command, else 500."""
        context = self._context
        intent = c.StartContainer(container_id=state.container_id, at=context.clock.now_ns())
        state = self._newest(state.container_id)
        try:
            if state.status in STARTABLE:
                await self._start_or_record(state, intent, cause)
            else:
                await self._execute((intent,), cause)
            await self._started(state.container_id)
        except Rejected:
            await self._gone_with_its_start(state.container_id)
            raise

    async def _gone_with_its_start(self, container_id: ContainerID) -> None:
        """A container of `--rm` whose start failed is gone when its client hears of that, and who waits for its removal
        has heard first: the CLI takes its own wait back on an error, and complains when that was not over."""
        state = self._newest(container_id)
        if state.host.auto_remove and state.status is Status.REMOVING:
            with trio.move_on_after(REMOVED_WITHIN_S):
                await self.removed(container_id)
                await trio.sleep(WAITERS_FIRST_S)

    async def _start_or_record(
        self, state: ContainerState, intent: c.StartContainer | c.RestartContainer, cause: Cause
    ) -> None:
        """state: the newest, one that may be started. What a start is refused for is recorded as its failure."""
        try:
            self._check_donors(state)
            await self._execute(self._start_commands(state, intent), cause)
        except Rejected as refused:
            await self._record_refusal(state.container_id, refused, cause)
            raise

    def _check_donors(self, state: ContainerState) -> None:
        """Whose namespaces are shared must run (CTR-38). Looked at again by the start itself, which knows no status."""
        for kind, reference in donors(state.host).items():
            try:
                donor = self._context.views.containers.find(reference)
            except Rejected as gone:
                # Not 404: it is not the container that was asked for (moby daemon/container_operations.go).
                words = f"joining {kind.value} namespace of container: {gone.message}"
                raise Rejected(Reason.SYSTEM, words) from gone
            check_donor(state, donor, kind)

    async def _record_refusal(self, container_id: ContainerID, refused: Rejected, cause: Cause) -> None:
        """A start that cannot have its address or port is a start that failed: its error is kept, and a container of
        `--rm` ends with it (CTR-08, CTR-16, NET-14)."""
        now, run = self._context.clock.now_ns(), self._newest(container_id).run + 1
        failed = c.ReportStartFailed(
            container_id=container_id, run=run, at=now, error=refused.message, exit_code=UNEXECUTABLE
        )
        with suppress(Rejected):  # Somebody else's start or removal came first: theirs is the outcome.
            await self._execute((c.StartContainer(container_id=container_id, at=now), failed), cause)

    def _start_commands(self, state: ContainerState, intent: c.StartContainer | c.RestartContainer) -> tuple[Any, ...]:
        return transactions.start(
            state,
            intent,
            find_network=self._context.views.networks.lookup,
            endpoint_ids=self._context.entropy.hex_id,
            seed=self._context.entropy.token,
            ephemeral=self._context.ephemeral,
        )

    async def _started(self, container_id: ContainerID) -> None:
        run = self._newest(container_id).run

        def settled(state: ContainerState) -> bool:
            return state.settled_runs >= run or state.run > run

        after = await self._context.pump.until(f"container:{container_id}", settled)
        if after.failed_run == run:
            reason = Reason.INVALID if after.exit_code in (126, 127) else Reason.SYSTEM
            raise Rejected(reason, after.error)

    def _newest(self, container_id: ContainerID) -> ContainerState:
        """With what waits for the disk: transactions are composed of it."""
        state = self._context.application.newest("container", container_id)
        assert isinstance(state, ContainerState)
        return state

    async def _execute_at_rest(
        self,
        state: ContainerState,
        wish: Callable[[ContainerState], c.ContainerCommand],
        cause: Cause,
        *,
        freezing: bool = False,
    ) -> ContainerState:
        """Ask once no start is under way, and again when a policy's start was decided a moment before: in a crash loop
        that is often. The state that was asked."""
        while True:
            state = await at_rest(self._context, state.container_id, freezing=freezing)
            try:
                await self._execute((wish(state),), cause)
            except Rejected:
                if self._newest(state.container_id).run == state.run:
                    raise
            else:
                return state

    async def stop(self, state: ContainerState, query: Query, cause: Cause) -> None:
        def wish(now: ContainerState) -> c.StopContainer:
            now_ns = self._context.clock.now_ns()
            signal, deadline = self._ending(now, query, now_ns)
            return c.StopContainer(container_id=now.container_id, at=now_ns, signal=signal, deadline=deadline)

        # CTR-10: a client that leaves does not stop the stop.
        asked = partial(self._execute_at_rest, state, wish, cause)
        await self._ended(await outlasting(self._context.lasting, asked))

    async def restart(self, state: ContainerState, query: Query, cause: Cause) -> None:
        """Whatever a restart is refused for is a failure of the server to moby (daemon/restart.go)."""
        try:
            await self._restart(state, query, cause)
        except Rejected as refused:
            raise Rejected(Reason.SYSTEM, f"Cannot restart container {state.name}: {refused.message}") from refused

    async def _restart(self, state: ContainerState, query: Query, cause: Cause) -> None:
        state = await at_rest(self._context, state.container_id)
        now_ns = self._context.clock.now_ns()
        signal, deadline = self._ending(state, query, now_ns)
        command = c.RestartContainer(container_id=state.container_id, at=now_ns, signal=signal, deadline=deadline)
        before = state.run
        if state.status in STARTABLE:
            await self._start_or_record(state, command, cause)
        else:
            await self._execute((command,), cause)
            await self._begun_again(command, before, cause)
        await self._started(state.container_id)

    async def _begun_again(self, command: c.RestartContainer, before: int, cause: Cause) -> None:
        """Wait for the start of a restart. One that a later stop turned into a stop begins here: a restart is a stop
        and a start, and whoever asks last does not undo the other's half (moby daemon/restart.go)."""
        stream = f"container:{command.container_id}"
        while True:
            await self._context.pump.until(stream, lambda now: now.run > before or not now.alive)
            now = self._newest(command.container_id)
            if now.run > before:
                return
            if now.status is Status.RESTARTING:
                await self._context.pump.until(stream, lambda now: now.status is not Status.RESTARTING)
            elif not now.alive:
                await self._start_or_record(now, command, cause)
                return

    def _ending(self, state: ContainerState, query: Query, now_ns: int) -> tuple[int, int]:
        """(signal, deadline): the request's, else the container's, else SIGTERM, 10 s. A negative timeout is none."""
        name = query.text("signal") or state.config.stop_signal
        signal = parse_signal(name) if name else SIGTERM
        default = state.config.stop_timeout if state.config.stop_timeout is not None else STOP_TIMEOUT_S
        timeout_s = query.integer("t", default)
        assert timeout_s is not None, "there is a default"
        endless = not 0 <= timeout_s <= STOP_TIMEOUT_MAX_S
        return signal, 0 if endless else now_ns + timeout_s * 1_000_000_000

    async def _ended(self, state: ContainerState) -> None:
        run = state.run

        def over(now: ContainerState) -> bool:
            return now.run != run or not now.alive

        await self._context.pump.until(f"container:{state.container_id}", over)

    async def kill(self, state: ContainerState, signal: int, cause: Cause) -> None:
        def wish(now: ContainerState) -> c.KillContainer:
            return c.KillContainer(container_id=now.container_id, at=self._context.clock.now_ns(), signal=signal)

        state = await self._execute_at_rest(state, wish, cause)
        if signal == SIGKILL:
            await self._ended(state)

    async def freeze(
        self, verb: type[c.PauseContainer | c.UnpauseContainer], state: ContainerState, query: Query, cause: Cause
    ) -> None:
        state = await at_rest(self._context, state.container_id, freezing=True)
        failures = state.freeze_failures
        await self._execute((verb(container_id=state.container_id, at=self._context.clock.now_ns()),), cause)

        def settled(now: ContainerState) -> bool:
            return now.status not in (Status.PAUSING, Status.UNPAUSING)

        after = await self._context.pump.until(f"container:{state.container_id}", settled)
        if after.freeze_failures > failures:
            words = "cannot pause" if verb is c.PauseContainer else "Cannot unpause"
            raise Rejected(Reason.SYSTEM, f"{words} container {state.container_id}: {after.freeze_error}")

    async def rename(self, state: ContainerState, query: Query, cause: Cause) -> None:
        name = query.text("name")
        if not name:
            raise Rejected(Reason.INVALID, "Neither old nor new names may be empty")
        name = checked_name(name)
        await self._execute(transactions.rename(self._newest(state.container_id), name), cause)

    async def remove(self, state: ContainerState, cause: Cause, *, force: bool, volumes: bool) -> None:
        def wish(now: ContainerState) -> c.RemoveContainer:
            now_ns = self._context.clock.now_ns()
            return c.RemoveContainer(container_id=now.container_id, at=now_ns, force=force, volumes=volumes)

        await self._execute_at_rest(state, wish, cause, freezing=True)
        await self.removed(state.container_id)

    async def unlink(self, name: str, cause: Cause) -> None:
        """Take a link name away (`docker rm --link web/db`); the containers stay (CTR-44)."""
        owner_name, _, alias = name.strip("/").partition("/")
        if not alias:
            raise Rejected(Reason.CONFLICT, "Conflict, cannot remove the default link name of the container")
        owner = self._context.views.containers.find(owner_name)
        await self._execute((c.UnlinkContainer(container_id=owner.container_id, alias=alias),), cause)

    async def removed(self, container_id: ContainerID) -> None:
        await self._context.pump.until(
            f"container:{container_id}", lambda now: now.status in (Status.REMOVED, Status.ABSENT)
        )

    async def prune(self, query: Query, cause: Cause) -> dict[str, Any]:
        """Every stopped container that the filters leave (CTR-35)."""
        context = self._context
        filters = query.filters().validate(PRUNE_FILTERS)
        horizon = prune_until(filters, context.clock.now_ns())
        deleted: list[str] = []
        reclaimed = 0
        for state in context.views.containers.newest_first():
            stopped = state.status in (Status.CREATED, Status.EXITED)
            if not stopped or (horizon is not None and state.created_at > horizon):
                continue
            if not prune_label_match(filters, state.config.labels):
                continue
            size = await context.sizes.written(state)
            try:
                await self.remove(state, cause, force=False, volumes=False)
            except Rejected:
                continue  # It was started or removed meanwhile: not ours to prune.
            deleted.append(state.container_id)
            reclaimed += size
        await tell_pruned(context, "container", reclaimed, cause)
        return {"ContainersDeleted": deleted or None, "SpaceReclaimed": reclaimed}

    async def _execute(self, commands: tuple[Any, ...], cause: Cause) -> None:
        await self._context.application.execute(*commands, cause=cause)
