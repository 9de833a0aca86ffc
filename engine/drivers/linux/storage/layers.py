"""Port LayerStore: unpacked layers, stacked by ChainID.

Owns `<data-root>/layers`. A blob becomes a tree in a temporary directory (trees.py), which is renamed into place once
its parent is there, so the layers of an image may be unpacked side by side, and two pulls of one layer share one
unpack. Directories a layer only implies take their attributes from the layers below, as an overlay's copy-up would
give them.

Durability: see docs/design/storage.md. `settle` makes new layers durable; `doubtful` names those a power cut may have
harmed, `repair` makes them again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence

import msgspec
import trio

from engine.aggregates.values.ids import ChainID, ContainerID, DiffID, Digest
from engine.aggregates.values.layers import chain_id as chain_id_of
from engine.drivers.linux.storage import kernel
from engine.drivers.linux.storage.early import GUESSES_MAX, EarlyLayers
from engine.drivers.linux.storage.errors import as_port_error
from engine.drivers.linux.storage.places import DIRECTORY_MODE, Places
from engine.drivers.linux.storage.spreading import Spreading
from engine.drivers.linux.storage.trees import LAYER_ROOT_MODE, Tree, Trees
from engine.drivers.linux.storage.workers import Workers
from engine.drivers.ports.storage import Layer, Progress, StorageInventory
from engine.errors import Fault, PortError

_DURABLE = "durable"
_PATH_DIR = os.O_PATH | os.O_DIRECTORY


class LayerMeta(msgspec.Struct, frozen=True, kw_only=True):
    """`meta.json` of a layer. boot: in which it was written; blob and media_type: what it can be made from again."""

    chain_id: ChainID
    diff_id: DiffID
    parent: ChainID | None
    size: int
    entries: int
    blob: Digest
    media_type: str
    boot: str


class _Unpacking:
    """A layer that somebody unpacks at the moment."""

    def __init__(self) -> None:
        self.ended = trio.Event()
        self.error: PortError | None = None


class LinuxLayerStore:
    """See engine/drivers/ports/storage.py, LayerStore."""

    def __init__(
        self,
        places: Places,
        workers: Workers,
        limiter: trio.CapacityLimiter,
        spreading: Spreading,
        *,
        whole: bool = False,
    ) -> None:
        """whole: each layer is kept as the whole tree that it and those below it make (vfs)."""
        self._whole = whole
        self._places = places
        self._limiter = limiter
        self._trees = Trees(places, workers, spreading, limiter)
        self.early = EarlyLayers(places, self._trees, at_most=0 if whole else GUESSES_MAX)
        self._under_way: dict[ChainID, _Unpacking] = {}
        self._asked_for: Counter[ChainID] = Counter()
        """How many want it, also those who wait for another's unpacking to end."""

    async def unpack(
        self, blob: Digest, media_type: str, diff_id: DiffID, parent: ChainID | None, progress: Progress | None = None
    ) -> Layer:
        chain_id = chain_id_of(parent, diff_id)
        with self._asking_for(chain_id):
            while (others := self._under_way.get(chain_id)) is not None:
                await others.ended.wait()
            layer = await self.lookup(chain_id)
            if layer is not None:
                return layer
            own = self._under_way[chain_id] = _Unpacking()
            try:
                return await self._unpack(chain_id, blob, media_type, diff_id, parent, progress)
            except PortError as error:
                own.error = error
                raise
            finally:
                del self._under_way[chain_id]
                own.ended.set()

    async def lookup(self, chain_id: ChainID) -> Layer | None:
        meta = await self.meta(chain_id)
        return None if meta is None else Layer(chain_id=chain_id, diff_id=meta.diff_id, size=meta.size)

    async def meta(self, chain_id: ChainID) -> LayerMeta | None:
        """What the store knows of a layer, or None."""
        with as_port_error("look up layer"):
            return _read_meta(self._places.layer(chain_id))

    async def discard_layer(self, chain_id: ChainID) -> None:
        with as_port_error("discard layer"):
            self._places.discard(self._places.layer(chain_id))

    async def inventory(self) -> StorageInventory:
        with as_port_error("inventory"):
            return await trio.to_thread.run_sync(_inventory, self._places, limiter=self._limiter)

    async def settle(self) -> None:
        """Flush the file system once and note every layer that was complete before as durable. Idempotent."""
        with as_port_error("sync layers"):
            await trio.to_thread.run_sync(_settle, self._places, limiter=self._limiter)

    async def doubtful(self) -> tuple[ChainID, ...]:
        """Layers written in another boot and never made durable, and what lies on them no matter when: lowest first."""
        with as_port_error("check layers"):
            return await trio.to_thread.run_sync(_doubtful, self._places, limiter=self._limiter)

    async def repair(self) -> tuple[ChainID, ...]:
        """At start: unpack doubtful layers again from their blobs. Those whose blob is gone too are discarded, and
        returned. To be called before any container starts."""
        lost: list[ChainID] = []
        for chain_id in await self.doubtful():
            meta = await self.meta(chain_id)
            await self.discard_layer(chain_id)
            try:
                if meta is None:
                    lost.append(chain_id)
                else:
                    await self.unpack(meta.blob, meta.media_type, meta.diff_id, meta.parent)
            except PortError:
                lost.append(chain_id)
        return tuple(lost)

    def lowers(self, chain: Sequence[ChainID]) -> tuple[str, ...]:
        """The directories of a chain given lowest first, topmost first as the overlay wants them."""
        if self._whole:
            chain = chain[-1:]
        return tuple(f"{self._places.layer(chain_id)}/diff" for chain_id in reversed(chain))

    @contextlib.contextmanager
    def _asking_for(self, chain_id: ChainID) -> Iterator[None]:
        self._asked_for[chain_id] += 1
        try:
            yield
        finally:
            self._asked_for[chain_id] -= 1
            if not self._asked_for[chain_id]:
                del self._asked_for[chain_id]

    async def _unpack(
        self,
        chain_id: ChainID,
        blob: Digest,
        media_type: str,
        diff_id: DiffID,
        parent: ChainID | None,
        progress: Progress | None,
    ) -> Layer:
        ancestors = await self._ancestors(parent) if self._whole else ()
        below = (self.lowers(ancestors)[0] if ancestors else "") if self._whole else None
        tree = await self._tree(blob, diff_id, below, progress)
        try:
            ancestors = await self._ancestors(parent)
            meta = LayerMeta(
                chain_id=chain_id, diff_id=diff_id, parent=parent, size=tree.size, entries=tree.entries,
                blob=blob, media_type=media_type, boot=_boot_id(),
            )  # fmt: skip
            with as_port_error("unpack"):
                await trio.to_thread.run_sync(
                    _publish, self._places, tree, meta, self.lowers(ancestors), limiter=self._limiter
                )
        finally:
            self._places.discard(tree.directory)
        return Layer(chain_id=chain_id, diff_id=diff_id, size=meta.size)

    async def _tree(self, blob: Digest, diff_id: DiffID, below: str | None, progress: Progress | None) -> Tree:
        with as_port_error("unpack"):
            file = os.open(self._places.blob(blob), os.O_RDONLY | os.O_CLOEXEC)
        try:
            early = await self.early.take(blob, diff_id)
            if early is not None:
                if progress is not None:
                    progress(size := os.fstat(file).st_size, size)
                return early
            known = str(blob) == diff_id  # a plain blob was verified when it came: it is not hashed twice.
            return await self._trees.make(file, expects=diff_id, hashed=not known, below=below, progress=progress)
        finally:
            os.close(file)

    async def _ancestors(self, parent: ChainID | None) -> tuple[ChainID, ...]:
        """The chain up to `parent`, lowest first, waiting for one that somebody has asked for. Raises
        PortError(NOT_FOUND)."""
        chain: list[ChainID] = []
        while parent is not None:
            error: PortError | None = None
            while (meta := await self.meta(parent)) is None and self._asked_for[parent]:
                others = self._under_way.get(parent)
                if others is None:  # who was under way was cancelled, and the next in line has not woken up yet.
                    await trio.lowlevel.checkpoint()
                else:
                    await others.ended.wait()
                    error = others.error
            if meta is None and error is not None:
                raise error.again()  # the reason of both failures, whichever is told first.
            if meta is None:
                raise PortError("unpack", f"parent layer {parent} is not there", fault=Fault.NOT_FOUND)
            chain.append(parent)
            parent = meta.parent
        return tuple(reversed(chain))


def _publish(places: Places, tree: Tree, meta: LayerMeta, lowers: tuple[str, ...]) -> None:
    """Give implied directories their attributes, write meta.json, rename into place."""
    for path in ("", *tree.implied):
        _inherit(f"{tree.directory}/diff", path, lowers, root=path == "")
    with open(f"{tree.directory}/meta.json", "wb") as file:
        file.write(msgspec.json.encode(meta))
        file.flush()
        os.fsync(file.fileno())
    os.makedirs(places.layers, DIRECTORY_MODE, exist_ok=True)
    try:
        os.rename(tree.directory, places.layer(meta.chain_id))
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise  # the same layer is there: content-addressed, so it is this one.


def _inherit(diff: str, path: str, lowers: tuple[str, ...], *, root: bool) -> None:
    """Owner, mode, times and xattrs of the same directory in the topmost layer below that has it."""
    resolve = kernel.RESOLVE_BENEATH | kernel.RESOLVE_NO_SYMLINKS
    target = f"{diff}/{path}" if path else diff
    if root and os.stat(target).st_mode & 0o7777 != LAYER_ROOT_MODE:
        return  # the archive said what its root is.
    for lower in lowers:
        with contextlib.suppress(OSError), _opened(lower) as lower_fd:
            fd = kernel.openat2(lower_fd, os.fsencode(path) or b".", _PATH_DIR, resolve=resolve)
            try:
                found = os.fstat(fd)
                os.chown(target, found.st_uid, found.st_gid)
                os.chmod(target, stat.S_IMODE(found.st_mode))
                source = f"/proc/self/fd/{fd}"
                for name in os.listxattr(source):
                    if not name.startswith("trusted.overlay."):
                        os.setxattr(target, name, os.getxattr(source, name))
                os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))
            finally:
                os.close(fd)
            return


@contextlib.contextmanager
def _opened(path: str) -> Iterator[int]:
    fd = os.open(path, _PATH_DIR | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _read_meta(layer: str) -> LayerMeta | None:
    try:
        with open(f"{layer}/meta.json", "rb") as file:
            return msgspec.json.decode(file.read(), type=LayerMeta)
    except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
        return None  # no layer, or one whose meta.json a power cut spoilt: not there either way.


def _inventory(places: Places) -> StorageInventory:
    return StorageInventory(
        blobs=tuple(Digest(f"sha256:{name}") for name in _names(places.content)),
        partial=tuple(Digest(f"sha256:{name}") for name in _names(places.partial)),
        layers=tuple(ChainID(f"sha256:{name}") for name in _names(places.layers)),
        containers=tuple(ContainerID(name) for name in _names(places.rootfs)),
    )


def _names(path: str) -> list[str]:
    try:
        return sorted(name for name in os.listdir(path) if len(name) == 64)
    except FileNotFoundError:
        return []


def _settle(places: Places) -> None:
    fresh = [
        layer for name in _names(places.layers)
        if not os.path.exists(f"{(layer := f'{places.layers}/{name}')}/{_DURABLE}")
    ]  # fmt: skip
    if not fresh:
        return
    fd = os.open(places.layers, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        kernel.syncfs(fd)
    finally:
        os.close(fd)
    for layer in fresh:
        with contextlib.suppress(FileNotFoundError):
            os.close(os.open(f"{layer}/{_DURABLE}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))


def _doubtful(places: Places) -> tuple[ChainID, ...]:
    boot = _boot_id()
    doubtful: list[tuple[int, ChainID]] = []
    for name in _names(places.layers):
        layer = f"{places.layers}/{name}"
        if os.path.exists(f"{layer}/{_DURABLE}"):
            continue
        meta = _read_meta(layer)
        if meta is None or meta.boot != boot:
            chain_id = ChainID(f"sha256:{name}")
            doubtful.append((_depth(places, meta), chain_id))
    return tuple(chain_id for _, chain_id in sorted(doubtful))


def _depth(places: Places, meta: LayerMeta | None) -> int:
    depth = 0
    while meta is not None and meta.parent is not None:
        depth, meta = depth + 1, _read_meta(places.layer(meta.parent))
    return depth


def _boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()
