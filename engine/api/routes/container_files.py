"""Files of a container: copy in and out, changes, export (CTR-30..33)."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, nullcontext
from typing import Any, cast

import msgspec
from msgspec.structs import replace

from engine.aggregates.container.lifecycle import Status
from engine.aggregates.container.state import ContainerState
from engine.aggregates.decider import Reason, Rejected
from engine.api.app import EngineApp
from engine.api.context import ApiContext
from engine.api.notes import note
from engine.api.params import Query, cause_of
from engine.api.responses import Response
from engine.api.streams import current_request, eager_raw_response, empty, json_response
from engine.drivers.ports.runtime import RootFilesystem
from engine.drivers.ports.storage import FilesMount, FilesRoot, PathStat

STAT_HEADER = "X-Docker-Container-Path-Stat"
TAR = "application/x-tar"


def register(app: EngineApp, context: ApiContext) -> None:
    files = context.ports.files

    @app.route("/containers/<name>/archive", methods=["HEAD"])
    async def stat(name: str) -> Response:
        async with place(context, name) as (root, path):
            response = empty(200)
            response.headers[STAT_HEADER] = stat_header(await files.stat(root, path))
            return response

    @app.route("/containers/<name>/archive", methods=["GET"])
    async def get(name: str) -> Response:
        async with AsyncExitStack() as stack:
            root, path = await stack.enter_async_context(place(context, name))
            found = await files.stat(root, path)
            response = await eager_raw_response(_holding(stack.pop_all(), files.archive(root, path)), TAR)
        await note(context, root.container_id, cause_of(current_request()), "archive-path")
        response.headers[STAT_HEADER] = stat_header(found)
        return response

    @app.route("/containers/<name>/archive", methods=["PUT"])
    async def put(name: str) -> Response:
        request = current_request()
        query = Query.of(request)
        async with place(context, name) as (root, path):
            try:
                await files.extract(
                    root,
                    path,
                    body_of(request.body),
                    no_overwrite_dir_non_dir=query.flag("noOverwriteDirNonDir"),
                    copy_uid_gid=query.flag("copyUIDGID"),
                )
            finally:
                context.sizes.written_to(root.container_id)
        await note(context, root.container_id, cause_of(request), "extract-to-dir")
        return empty(200)

    @app.route("/containers/<name>/changes", methods=["GET"])
    async def changes(name: str) -> Response:
        state = context.views.containers.find(name)
        await files_root(context, state, with_mounts=False)  # One that was never started has no layer yet.
        found = await context.ports.rootfs.changes(state.container_id)
        return json_response([{"Path": change.path, "Kind": change.kind} for change in found] or None)

    @app.route("/containers/<name>/export", methods=["GET"])
    async def export(name: str) -> Response:
        state = context.views.containers.find(name)
        if state.status is Status.REMOVING:
            raise Rejected(Reason.CONFLICT, f"You cannot export container {state.container_id} which is being removed")
        root = await files_root(context, state, with_mounts=False)
        response = await eager_raw_response(files.export(root), "application/octet-stream")
        await note(context, state.container_id, cause_of(current_request()), "export")
        return response


@asynccontextmanager
async def place(context: ApiContext, name: str) -> AsyncIterator[tuple[FilesRoot, str]]:
    """The tree and the path a request names, for as long as the block lasts. Raises Rejected: INVALID without a path,
    NOT_FOUND."""
    path = Query.of(current_request()).text("path")
    if not path:
        raise Rejected(Reason.INVALID, "bad parameter: 'path' cannot be empty")
    state = context.views.containers.find(name)
    async with nullcontext() if state.pid else context.mounts.looking(state):
        yield replace(await files_root(context, state, with_mounts=True), called=name), path


async def _holding(stack: AsyncExitStack, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The chunks; what the stack holds is given back behind the last one, or when nobody reads on."""
    async with stack, aclosing(cast(Any, chunks)) as source:
        async for chunk in source:
            yield chunk


async def files_root(context: ApiContext, state: ContainerState, *, with_mounts: bool) -> FilesRoot:
    """A container's files as it sees them: its read-write layer and the volumes and binds over it."""
    rootfs = await context.ports.rootfs.prepare(
        state.container_id, state.layers, volatile=state.host.auto_remove, limit_bytes=state.host.limit_bytes
    )
    if with_mounts and not state.pid:
        await _volumes_ready(context, state, rootfs)
    mounts = tuple(
        FilesMount(
            source=point.source,
            destination=point.destination,
            rw=point.rw,
            subpath=point.subpath,
            lowers=context.ports.rootfs.lowers(point.layers),
        )
        for point in state.mounts
        if point.type != "tmpfs" and with_mounts
    )
    return FilesRoot(
        container_id=state.container_id,
        pid=state.pid if with_mounts else 0,
        rootfs=rootfs,
        mounts=mounts,
        readonly=state.host.readonly_rootfs,
        user=state.config.user,
        remapped=state.host.userns_mode != "host",
    )


async def _volumes_ready(context: ApiContext, state: ContainerState, rootfs: RootFilesystem) -> None:
    """The volumes of a container that was never started: made and filled as its start will find them."""
    for point in state.mounts:
        volume = context.views.volumes.get(point.name) if point.type == "volume" else None
        if volume is not None:
            await context.ports.volumes.create(volume.name, volume.options)
            if point.copy_up:
                await context.ports.volumes.fill(volume.name, rootfs.image, point.destination)


def stat_header(stat: PathStat) -> str:
    document = {
        "name": stat.name,
        "size": stat.size,
        "mode": stat.mode,
        "mtime": stat.mtime,
        "linkTarget": stat.link_target,
    }
    return base64.b64encode(msgspec.json.encode(document)).decode()


async def body_of(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The request's body, piece by piece."""
    async for chunk in body:
        yield chunk
