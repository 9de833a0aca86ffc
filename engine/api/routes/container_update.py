"""`POST /containers/{id}/update`: limits of a container that may be running, and its restart policy."""

from __future__ import annotations

from msgspec.structs import replace

from engine.aggregates.container import commands as c
from engine.aggregates.container import events as e
from engine.aggregates.container.decide import UPDATE_UNDER_WAY
from engine.aggregates.container.resource_rules import UPDATABLE, admitted, not_updatable
from engine.aggregates.container.rules import check_restart_policy
from engine.aggregates.container.state import ContainerState
from engine.aggregates.decider import Cause, Reason, Rejected
from engine.aggregates.values.config import Resources, RestartPolicy
from engine.aggregates.values.ids import ContainerID
from engine.api.app import EngineApp
from engine.api.bodies import decode_body
from engine.api.context import ApiContext
from engine.api.params import cause_of
from engine.api.responses import Response
from engine.api.streams import current_request, json_response


class UpdateBody(Resources, frozen=True, kw_only=True):
    """The body of `POST /containers/{id}/update`."""

    restart_policy: RestartPolicy | None = None


def register(app: EngineApp, context: ApiContext) -> None:
    updates = _Updates(context)

    @app.route("/containers/<name>/update", methods=["POST"])
    async def update(name: str) -> Response:
        request = current_request()
        body = await decode_body(request, UpdateBody)
        state = context.views.containers.find(name)
        warnings = await updates.apply(state, body, request.api_version, cause_of(request))
        return json_response({"Warnings": list(warnings) or None})


class _Updates:
    def __init__(self, context: ApiContext) -> None:
        self._context = context

    async def apply(
        self, state: ContainerState, body: UpdateBody, api_version: tuple[int, int], cause: Cause
    ) -> tuple[str, ...]:
        """Returns warnings once the kernel has the limits. Raises what it refused them with; nothing changed then."""
        given = Resources(**{name: getattr(body, name) for name in Resources.__struct_fields__})
        if api_version < (1, 40):
            given = replace(given, pids_limit=None)
        elif given.pids_limit is not None:
            given = replace(given, pids_limit=max(given.pids_limit, 0))
        policy = body.restart_policy if body.restart_policy is not None and body.restart_policy.name else None
        if policy is not None:
            check_restart_policy(policy)
        resources, warnings = admitted(given, self._context.facts, update=True)
        ignored = not_updatable(resources)
        if ignored:
            warnings += (f"{', '.join(ignored)}: cannot be changed by an update. Discarded.",)
            resources = Resources(**{name: getattr(resources, name) for name in UPDATABLE})
        await self._updated(state, resources if resources != Resources() else None, policy, cause)
        return warnings

    async def _updated(
        self, state: ContainerState, resources: Resources | None, policy: RestartPolicy | None, cause: Cause
    ) -> None:
        """Updates come one after the other, as behind moby's lock: this one waits for its turn and for its outcome."""
        stream = f"container:{state.container_id}"
        while True:
            await self._context.pump.until(stream, lambda now: now.updating is None and not now.starting)
            now_ns = self._context.clock.now_ns()
            command = c.UpdateContainer(
                container_id=state.container_id, at=now_ns, resources=resources, restart_policy=policy
            )
            try:
                committed = await self._context.application.execute(command, cause=cause)
            except Rejected as rejected:
                if not rejected.message.endswith(UPDATE_UNDER_WAY):
                    raise
                continue
            requests = [r.event for r in committed.recorded if isinstance(r.event, e.ContainerUpdateRequested)]
            if requests:
                await self._update_settled(state.container_id, requests[0].number)
            return

    async def _update_settled(self, container_id: ContainerID, number: int) -> None:
        def settled(now: ContainerState) -> bool:
            return now.updating is None or now.updates > number

        after = await self._context.pump.until(f"container:{container_id}", settled)
        if after.failed_update == number:
            raise Rejected(Reason.SYSTEM, f"Cannot update container {container_id}: {after.update_error}")
