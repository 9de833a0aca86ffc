"""`/volumes/...`: create, list, inspect, delete, prune (VOL-01 to VOL-05)."""

from __future__ import annotations

from functools import partial

import trio

from engine.aggregates.decider import Cause, Reason, Rejected
from engine.aggregates.values.ids import VolumeName
from engine.aggregates.volume import CreateVolume, RemoveVolume, VolumeState, VolumeStatus
from engine.api.app import EngineApp, not_implemented
from engine.api.bodies import decode_body
from engine.api.context import ApiContext
from engine.api.filters import Filters
from engine.api.params import Query, cause_of
from engine.api.pruning import PRUNE_FILTERS, alone, prune_label_match, tell_pruned
from engine.api.responses import Response, empty, json_response
from engine.api.shapes import volumes as shapes
from engine.api.streams import current_request, request
from engine.api.volume_rules import check_driver, check_name
from engine.errors import Fault, PortError

ANONYMOUS_LABEL = "com.docker.volume.anonymous"
LIST_FILTERS = frozenset({"dangling", "name", "driver", "label"})
REMOVE_DEADLINE_S = 120.0
"""Removing renames and unmounts; an NFS server that is gone can hold it up this long before the client is told."""


def register(app: EngineApp, context: ApiContext) -> None:
    routes = VolumeRoutes(context)
    pruning = trio.Lock()

    @app.route("/volumes", methods=["GET"])
    async def list_volumes() -> Response:
        found = [routes.shown(state) for state in routes.filtered(Query.of(request).filters())]
        return json_response({"Volumes": found, "Warnings": None})

    @app.route("/volumes/create", methods=["POST"])
    async def create() -> Response:
        body = await decode_body(request, shapes.CreateVolumeBody, required=False)
        state = await routes.create(body, cause_of(request))
        return json_response(routes.shown(state), status=201)

    @app.route("/volumes/prune", methods=["POST"])
    async def prune() -> Response:
        filters = Query.of(request).filters().validate(PRUNE_FILTERS - {"until"} | {"all"})
        every = filters.boolean("all", default=current_request().api_version < (1, 42))
        with alone(pruning):
            deleted, reclaimed = await routes.prune(filters, every=every, cause=cause_of(request))
        return json_response({"VolumesDeleted": deleted or None, "SpaceReclaimed": reclaimed})

    @app.route("/volumes/<path:name>", methods=["GET"])
    async def inspect(name: str) -> Response:
        return json_response(routes.shown(routes.find(name)))

    @app.route("/volumes/<path:name>", methods=["PUT"])
    async def update(name: str) -> Response:
        raise not_implemented("updating cluster volumes")

    @app.route("/volumes/<path:name>", methods=["DELETE"])
    async def delete(name: str) -> Response:
        try:
            await routes.remove(routes.find(name), cause_of(request))
        except Rejected as error:
            # force is for what is gone already, not for what is in use (VOL-04).
            if error.reason is not Reason.NOT_FOUND or not Query.of(request).flag("force"):
                raise
        return empty(204)


class VolumeRoutes:
    def __init__(self, context: ApiContext) -> None:
        self._context = context

    def shown(self, state: VolumeState) -> dict[str, object]:
        return shapes.volume(state, shapes.mountpoint(self._context.config.data_root, state.name))

    def find(self, name: str) -> VolumeState:
        state = self._context.views.volumes.find(name)
        assert isinstance(state, VolumeState)
        return state

    def filtered(self, filters: Filters) -> list[VolumeState]:
        filters.validate(LIST_FILTERS)
        dangling = filters.boolean("dangling", default=False) if "dangling" in filters else None
        return [
            state
            for state in self._context.views.volumes
            if state.status is VolumeStatus.READY
            and filters.match("name", state.name)
            and filters.exact("driver", state.driver)
            and filters.labels("label", state.labels)
            and (dangling is None or dangling == (not state.references))
        ]

    async def create(self, body: shapes.CreateVolumeBody, cause: Cause) -> VolumeState:
        """VOL-01: the new volume, or the one of that name."""
        if body.cluster_volume_spec is not None:
            raise Rejected(Reason.UNAVAILABLE, "This node is not a swarm manager.")
        name, labels = body.name, dict(body.labels or {})
        if not name:
            name = self._context.entropy.hex_id()
            labels[ANONYMOUS_LABEL] = ""
        check_name(name)
        driver = body.driver or "local"
        options = dict(body.driver_opts or {})
        check_driver(name, driver, options, quotas=self._context.facts.volume_quotas)
        command = CreateVolume(
            name=VolumeName(name),
            at=self._context.clock.now_ns(),
            driver=driver,
            options=options,
            labels=labels,
            anonymous=ANONYMOUS_LABEL in labels,
        )
        await self._context.application.execute(command, cause=cause)
        state = self.find(name)
        gone = partial(self._context.views.volumes.is_gone, name)
        await self._context.ports.volumes.create(VolumeName(name), state.options, unless=gone)
        return state

    async def remove(self, state: VolumeState, cause: Cause) -> None:
        """VOL-04. Returns when the directory is gone."""
        await self._context.application.execute(
            RemoveVolume(name=state.name, at=self._context.clock.now_ns()), cause=cause
        )
        with trio.move_on_after(REMOVE_DEADLINE_S):
            after = await self._context.pump.until(
                f"volume:{state.name}", lambda state: state.status is not VolumeStatus.REMOVING
            )
            if after.status is VolumeStatus.READY and after.remove_error:
                raise PortError("remove volume", f"remove {state.name}: {after.remove_error}")
            return
        raise PortError("remove volume", f"remove {state.name}: still under way", fault=Fault.SYSTEM)

    async def prune(self, filters: Filters, *, every: bool, cause: Cause) -> tuple[list[str], int]:
        """VOL-05: names of those that went, and their bytes. every: named ones, too."""
        deleted: list[str] = []
        reclaimed = 0
        for state in self._context.views.volumes:
            if state.status is not VolumeStatus.READY or state.references or state.driver != "local":
                continue
            if not (every or state.anonymous) or not prune_label_match(filters, state.labels):
                continue
            size = await self._context.sizes.volume(VolumeName(state.name))
            try:
                await self.remove(state, cause)
            except Rejected:
                continue  # somebody was quicker: it is used, or gone
            deleted.append(state.name)
            reclaimed += size
        await tell_pruned(self._context, "volume", reclaimed, cause)
        return deleted, reclaimed

