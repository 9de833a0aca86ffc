"""`GET /system/df`: what images, containers and volumes take (SYS-17); and the cache of a builder, which is not here.

Sizes of layers come from the log, and who shares them is a fold over images and containers; read-write layers and
volumes are measured (engine/api/sizes.py).
Source: moby router/system/system_routes.go, daemon/disk_usage.go.
"""

from __future__ import annotations

from typing import Any

from engine.aggregates.decider import Reason, Rejected
from engine.aggregates.image import ImageStatus
from engine.api.app import EngineApp
from engine.api.context import ApiContext
from engine.api.params import Query
from engine.api.responses import Response, json_response
from engine.api.shapes import containers as container_shapes
from engine.api.shapes import images as image_shapes
from engine.api.shapes import volumes as volume_shapes
from engine.api.shapes.container_filters import image_name
from engine.api.streams import current_request, request
from engine.api.versions import ApiVersion

TYPES = ("container", "image", "volume", "build-cache")
TRUE, FALSE = frozenset({"1", "t", "T", "true", "TRUE", "True"}), frozenset({"0", "f", "F", "false", "FALSE", "False"})


def register(app: EngineApp, context: ApiContext) -> None:
    usage = DiskUsage(context)

    @app.route("/system/df", methods=["GET"])
    async def disk_usage() -> Response:
        query, version = Query.of(request), current_request().api_version
        wanted = query.all("type") if version >= (1, 42) and "type" in query else TYPES
        for kind in wanted:
            if kind not in TYPES:
                raise Rejected(Reason.INVALID, f"unknown object type: {kind}")
        legacy, verbose = _detail(query, version)
        shape: dict[str, Any] = {}
        if "image" in wanted:
            shape |= await usage.images(version, legacy=legacy, verbose=verbose)
        if "container" in wanted:
            shape |= await usage.containers(version, legacy=legacy, verbose=verbose)
        if "volume" in wanted:
            shape |= await usage.volumes(legacy=legacy, verbose=verbose)
        if "build-cache" in wanted:
            shape |= usage.build_cache(legacy=legacy)
        if version < (1, 52):
            shape = {key: value for key, value in shape.items() if not key.endswith("Usage")}
            if version < (1, 42):
                shape["BuilderSize"] = 0
        return json_response(shape)

    @app.route("/build/prune", methods=["POST"])
    async def prune_build_cache() -> Response:
        """`docker system prune` asks for it behind all the rest. Nothing is kept, so nothing goes."""
        return json_response({"CachesDeleted": [], "SpaceReclaimed": 0})


def _detail(query: Query, version: ApiVersion) -> tuple[bool, bool]:
    """(legacy fields, items). Since 1.52 a client that sends `verbose` knows the new objects."""
    said = query.text("verbose")
    if version < (1, 52) or not said:
        return True, True
    if said not in TRUE | FALSE:
        raise Rejected(Reason.INVALID, f"invalid value for verbose: {said}")
    return False, said in TRUE


class DiskUsage:
    def __init__(self, context: ApiContext) -> None:
        self._context = context

    async def images(self, version: ApiVersion, *, legacy: bool, verbose: bool) -> dict[str, Any]:
        """A layer counts once, however many images have it, and also when only containers are left of its image; what
        no container stands on is reclaimable."""
        views = self._context.views
        states = [state for state in views.images if state.status is ImageStatus.READY]
        uses = image_shapes.layer_uses(states)
        sizes = {layer.chain_id: layer.size for state in states for layer in state.layers}
        held = {each for state in views.containers for each in state.layers}
        held |= {each for state in views.containers for point in state.mounts for each in point.layers}
        sizes |= await self._context.sizes.layers(sorted(held - sizes.keys()))
        users = {state.image_id: len(views.containers.using_image(state.image_id)) for state in states}
        items = [
            image_shapes.summary(
                state, image_shapes.ListFacts(containers=users[state.image_id], shared=uses), max(version, (1, 51))
            )
            | ({"VirtualSize": state.size} if version < image_shapes.ONE_SIZE_SINCE else {})
            for state in states
        ]
        total = sum(sizes.values())
        usage = {
            "ActiveCount": sum(1 for count in users.values() if count),
            "TotalCount": len(states),
            "Reclaimable": sum(size for chain_id, size in sizes.items() if chain_id not in held),
            "TotalSize": total,
        }
        return _section("ImageUsage", usage, "Images", items, legacy=legacy, verbose=verbose) | (
            {"LayersSize": total} if legacy else {}
        )

    async def containers(self, version: ApiVersion, *, legacy: bool, verbose: bool) -> dict[str, Any]:
        views, sizes = self._context.views, self._context.sizes
        measured = await sizes.containers()
        items = []
        for state, size in measured:
            row = container_shapes.summary(
                state,
                now_ns=self._context.clock.now_ns(),
                image_name=image_name(state, views.images),
                networks=views.networks,
                api_version=version,
                link_names=views.containers.link_names(state.container_id),
            )
            items.append(row | {"SizeRw": size, "SizeRootFs": size + await sizes.below(state)})
        total = sum(size for _, size in measured)
        usage = {
            "ActiveCount": sum(container_shapes.counts_as_running(state) for state, _ in measured),
            "TotalCount": len(measured),
            "Reclaimable": sum(size for state, size in measured if not container_shapes.counts_as_running(state)),
            "TotalSize": total,
        }
        return _section("ContainerUsage", usage, "Containers", items, legacy=legacy, verbose=verbose)

    async def volumes(self, *, legacy: bool, verbose: bool) -> dict[str, Any]:
        measured = await self._context.sizes.volumes()
        root = self._context.config.data_root
        items = [
            volume_shapes.volume(state, volume_shapes.mountpoint(root, state.name), size) for state, size in measured
        ]
        usage = {
            "ActiveCount": sum(bool(state.references) for state, _ in measured),
            "TotalCount": len(measured),
            "Reclaimable": sum(max(size, 0) for state, size in measured if not state.references),
            "TotalSize": sum(max(size, 0) for _, size in measured),
        }
        return _section("VolumeUsage", usage, "Volumes", items, legacy=legacy, verbose=verbose)

    def build_cache(self, *, legacy: bool) -> dict[str, Any]:
        """There is no builder, so its cache is empty: a fact, not an omission."""
        usage = {"ActiveCount": 0, "TotalCount": 0, "Reclaimable": 0, "TotalSize": 0}
        return _section("BuildCacheUsage", usage, "BuildCache", [], legacy=legacy, verbose=False)


def _section(
    name: str, usage: dict[str, int], legacy_name: str, items: list[dict[str, Any]], *, legacy: bool, verbose: bool
) -> dict[str, Any]:
    """One kind, in the new object and, where asked for, under its old name."""
    shape: dict[str, Any] = {name: dict(usage)}
    if legacy:
        shape[legacy_name] = items
    elif verbose:
        shape[name]["Items"] = items
    return shape
