"""`docker commit`: what a container wrote becomes the topmost layer of a new image (CTR-34).

Owns the order: intent (and freeze), layer, configuration, then image, names and outcome as one transaction; whatever
goes wrong in between is an outcome too, and thaws the container. A crash in between leaves an open commit, which
`recover` reports failed; what it stored is collected like the rest of a failed transfer.
Source: moby daemon/commit.go, image/image.go NewChildImage.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
import trio

from engine.aggregates.container import commands as c
from engine.aggregates.container.lifecycle import Status
from engine.aggregates.container.merge import inherit
from engine.aggregates.container.state import ContainerState
from engine.aggregates.decider import Cause, Reason, Rejected
from engine.aggregates.image import AddImage, ImageLayer, ImageState
from engine.aggregates.values.commit import CommitWish
from engine.aggregates.values.config import ContainerConfig
from engine.aggregates.values.descriptor import DOCKER_CONFIG, descriptor_of
from engine.aggregates.values.ids import DiffID, ImageID
from engine.aggregates.values.instructions import apply_instructions
from engine.aggregates.values.layers import chain_id
from engine.aggregates.values.manifest import parse_image_config
from engine.aggregates.values.rfc3339 import fixed_time_of
from engine.drivers.ports.storage import BlobStore, ImportedLayer, LayerStore, RootFilesystems
from engine.reactors.base import Hands
from engine.reactors.images.additions import Additions
from engine.reactors.images.arrivals import Arrivals
from engine.reactors.images.holds import Hold
from engine.reactors.images.pull import add_image, check_config
from engine.reactors.images.transfers import NAME, first_failure

EMPTY_TAR = DiffID("sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef")
"""1,024 zeros: a container that wrote nothing adds a step to the history and no layer."""


class Commits:
    def __init__(
        self,
        hands: Hands,
        rootfs: RootFilesystems,
        blobs: BlobStore,
        layers: LayerStore,
        *,
        additions: Additions,
        arrivals: Arrivals,
    ) -> None:
        self._hands = hands
        self._rootfs = rootfs
        self._blobs = blobs
        self._layers = layers
        self._additions = additions
        self._arrivals = arrivals

    async def recover(self) -> None:
        """At start: commits that a crash cut off have failed, and what they froze is thawed."""
        for state in list(self._hands.views.containers):
            for commit_id in state.commits:
                failed = self._failed(state, commit_id, "interrupted by a restart of the engine")
                await self._hands.report(NAME, "start-up", failed)

    async def commit(self, state: ContainerState, wish: CommitWish, cause: Cause) -> ImageID:
        """The new image. Raises Rejected (bad changes, a container on its way out, an image that is gone), PortError;
        then nothing is left of it."""
        parent = self._parent(state)
        own = self._config_of(state)
        config = inherit(apply_instructions(wish.config or own, wish.changes), own)
        commit_id = self._hands.entropy.hex_id()
        begin = c.CommitContainer(
            container_id=state.container_id,
            at=self._hands.clock.now_ns(),
            commit_id=commit_id,
            reference=str(wish.reference or ""),
            pause=wish.pause,
        )
        begun = await self._hands.application.execute(begin, cause=cause)
        reactor = Cause(actor=f"reactor:{NAME}", correlation=cause.correlation, causation=f"@{begun.position}")
        try:
            await self._frozen(state)
            async with self._arrivals.held() as hold:
                image_id = await self._made(state, parent, config, wish, commit_id, hold, reactor)
        except BaseException as error:
            failure = first_failure(error)
            words = "cancelled by the client" if isinstance(failure, trio.Cancelled) else str(failure)
            with trio.CancelScope(shield=True):
                failed = self._failed(state, commit_id, words or type(failure).__name__)
                await self._hands.application.execute(failed, cause=reactor)
            raise
        await self._thawed(state)
        return image_id

    def _parent(self, state: ContainerState) -> ImageState:
        parent = self._hands.views.images.get(state.image_id)
        if parent is None:
            raise Rejected(Reason.NOT_FOUND, f"No such image: {state.image_id}")
        return parent

    def _config_of(self, state: ContainerState) -> ContainerConfig:
        if state.env is None:
            return state.config
        env = msgspec.json.decode(self._hands.vault.open(state.env), type=tuple[str, ...])
        return msgspec.structs.replace(state.config, env=env)

    async def _frozen(self, state: ContainerState) -> None:
        """Until a freeze that is under way has its outcome. Raises Rejected when the kernel refused it."""
        failures = state.freeze_failures
        now: ContainerState = await self._hands.pump.until(
            f"container:{state.container_id}", lambda now: now.status is not Status.PAUSING
        )
        if now.freeze_failures > failures:
            raise Rejected(Reason.SYSTEM, f"Cannot pause container {state.container_id}: {now.freeze_error}")

    async def _thawed(self, state: ContainerState) -> None:
        """As behind moby's lock: who hears of the image finds the container running again."""
        await self._hands.pump.until(
            f"container:{state.container_id}", lambda now: now.status is not Status.UNPAUSING
        )

    async def _made(
        self,
        state: ContainerState,
        parent: ImageState,
        config: ContainerConfig,
        wish: CommitWish,
        commit_id: str,
        hold: Hold,
        cause: Cause,
    ) -> ImageID:
        await hold.add(parent.blobs, parent.chain)
        assert parent.config is not None, "an image that is there has a configuration"
        inherited = msgspec.json.decode(await self._blobs.read(parent.config.digest))
        await self._rootfs.prepare(
            state.container_id, state.layers, volatile=state.host.auto_remove, limit_bytes=state.host.limit_bytes
        )
        written = await self._rootfs.diff_layer(state.container_id, hold.add)
        if self._hands.container(state.container_id).status in (Status.REMOVING, Status.REMOVED):
            raise Rejected(Reason.CONFLICT, f"container {state.container_id} was removed while it was committed")
        at = self._hands.clock.now_ns()
        body = msgspec.json.encode(child_config(inherited, state, config, wish, written.diff_id, at))
        descriptor = descriptor_of(body, DOCKER_CONFIG)
        await hold.add((descriptor.digest,))
        await self._blobs.ingest(_once(body), descriptor.digest)
        parsed = parse_image_config(body)
        check_config(parsed, len(parent.layers) + (written.diff_id != EMPTY_TAR))
        layers = await self._stacked(parent, written, hold)
        add: AddImage = add_image(
            parsed, descriptor, layers, at=at, origin="commit", manifest=None, parent=parent.image_id
        )
        done = c.ReportCommitted(
            container_id=state.container_id,
            at=at,
            commit_id=commit_id,
            image_id=add.image_id,
            reference=str(wish.reference or ""),
            comment=wish.comment,
        )
        names = (wish.reference,) if wish.reference is not None else ()
        await self._additions.add(add, cause=cause, names=names, also=(done,))
        return add.image_id

    async def _stacked(self, parent: ImageState, written: ImportedLayer, hold: Hold) -> tuple[ImageLayer, ...]:
        if written.diff_id == EMPTY_TAR:
            return parent.layers
        below = parent.layers[-1].chain_id if parent.layers else None
        chain = chain_id(below, written.diff_id)
        await hold.add(layers=(chain,))
        made = await self._layers.unpack(written.blob.digest, written.blob.media_type, written.diff_id, below)
        top = ImageLayer(diff_id=written.diff_id, chain_id=chain, blob=written.blob, size=made.size)
        return (*parent.layers, top)

    def _failed(self, state: ContainerState, commit_id: str, error: str) -> c.ReportCommitFailed:
        now = self._hands.clock.now_ns()
        return c.ReportCommitFailed(container_id=state.container_id, at=now, commit_id=commit_id, error=error)


def child_config(
    parent: dict[str, Any],
    state: ContainerState,
    config: ContainerConfig,
    wish: CommitWish,
    diff_id: DiffID,
    at: int,
) -> dict[str, Any]:
    """The image's configuration document: the parent's system and history, the container's configuration."""
    created = fixed_time_of(at)
    step: dict[str, Any] = {"created": created, "created_by": " ".join(state.config.cmd or ())}
    step |= {key: value for key, value in (("author", wish.author), ("comment", wish.comment)) if value}
    diff_ids: Sequence[str] = parent.get("rootfs", {}).get("diff_ids") or ()
    if diff_id == EMPTY_TAR:
        step["empty_layer"] = True
    else:
        diff_ids = (*diff_ids, diff_id)
    kept = ("architecture", "variant", "os", "os.version", "os.features")
    return {
        **{key: parent[key] for key in kept if parent.get(key)},
        **({"author": wish.author} if wish.author else {}),
        "config": msgspec.to_builtins(config),
        "container": state.container_id,
        "created": created,
        "history": [*(parent.get("history") or ()), step],
        "rootfs": {"type": "layers", "diff_ids": list(diff_ids)},
    }


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body
