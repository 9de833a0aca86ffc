"""Port Volumes: the local driver, `<data-root>/volumes/<name>/_data`.

Owns directories and, for volumes with options, mounts on them in the engine's own mount namespace: made at first use,
found again after a restart, undone when the last user is gone (who that is, the log knows). Options come with each
call. Source: moby daemon/volume/local/{local,local_unix}.go.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import msgspec
import trio

from engine.aggregates.values.id_map import IdMap
from engine.aggregates.values.ids import RESTRICTED_NAME, VolumeName
from engine.drivers.linux.storage import kernel, quota
from engine.drivers.linux.storage.errors import as_port_error
from engine.drivers.linux.storage.measuring import tree_sizes
from engine.drivers.linux.storage.places import Places
from engine.drivers.linux.storage.workers import Workers, id_map_fields
from engine.drivers.linux.volume.options import (
    BIND_CHANGES,
    NO_QUOTAS,
    PROPAGATION,
    MountRequest,
    mount_request,
    size_of,
    validate,
)
from engine.errors import Fault, PortError

_ROOT_MODE = 0o701
_DATA_MODE = 0o755
_FILLING = "filling"


class LocalVolumes:
    """See engine/drivers/ports/volume.py, Volumes."""

    def __init__(self, places: Places, workers: Workers, id_map: IdMap | None = None) -> None:
        self._places = places
        self._id_map = id_map
        self._workers = workers
        self._root = f"{places.data_root}/volumes"
        # A mount of nfs may hang on its server: it must not keep other volumes from being made.
        self._limiter = trio.CapacityLimiter(16)
        self._locks: dict[VolumeName, trio.Lock] = {}

    async def create(
        self, name: VolumeName, options: Mapping[str, str], *, unless: Callable[[], bool] = lambda: False
    ) -> str:
        validate(options)
        if unless():
            return self._data(name)
        with as_port_error("create volume"):
            owner = (0, 0) if self._id_map is None else self._id_map.root
            _make_directories(self._places.data_root, self._folder(name), owner, size_of(options))
        return self._data(name)

    async def remove(self, name: VolumeName) -> None:
        with as_port_error("remove volume"):
            if is_mount_point(self._data(name)):
                raise PortError("remove volume", "volume has active mounts", fault=Fault.CONFLICT)
            self._places.discard(self._folder(name))
        self._locks.pop(name, None)

    async def mount(self, name: VolumeName, options: Mapping[str, str]) -> str:
        data = await self.create(name, options)
        request = mount_request(options)
        if request is not None:
            async with self._lock(name):
                await trio.to_thread.run_sync(
                    partial(_mount_once, request, data), limiter=self._limiter, abandon_on_cancel=True
                )
        return data

    async def unmount(
        self, name: VolumeName, options: Mapping[str, str], *, unless: Callable[[], bool] = lambda: False
    ) -> None:
        data = self._data(name)
        if mount_request(options) is None:
            return
        async with self._lock(name):
            if unless():
                return
            with as_port_error("unmount volume"):
                await trio.to_thread.run_sync(_unmount, data, limiter=self._limiter, abandon_on_cancel=True)

    async def usages(self, names: Sequence[VolumeName]) -> Mapping[VolumeName, int]:
        return await tree_sizes(self._workers, {name: self._data(name) for name in names})

    async def list(self) -> tuple[VolumeName, ...]:
        try:
            names = sorted(os.listdir(self._root))
        except FileNotFoundError:
            return ()
        return tuple(VolumeName(name) for name in names if os.path.isdir(f"{self._root}/{name}/_data"))

    async def fill(self, name: VolumeName, lowers: tuple[str, ...], path: str) -> None:
        """A mark beside the data says that filling has begun: what a crash left half filled is emptied and filled
        again, instead of passing for a volume somebody used."""
        mark = f"{self._folder(name)}/{_FILLING}"
        async with self._lock(name):
            with as_port_error("fill volume"):
                if os.path.exists(mark):
                    await trio.to_thread.run_sync(_empty, self._places, self._data(name), limiter=self._limiter)
                elif os.listdir(self._data(name)):
                    return
                place = self._places.new_temporary("fill")
                os.mkdir(place, 0o700)
                os.close(os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
            try:
                fields = {"lowers": lowers, "path": path, "target": self._data(name), "place": place,
                          "id_map": id_map_fields(self._id_map)}  # fmt: skip
                await self._workers.run("fill", fields)
                os.unlink(mark)
            finally:
                with contextlib.suppress(OSError):
                    os.rmdir(place)

    def _folder(self, name: VolumeName) -> str:
        if not RESTRICTED_NAME.fullmatch(name):
            words = (
                f'create {name}: "{name}" includes invalid characters for a local volume name, only '
                '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path'
            )
            raise PortError("create volume", words, fault=Fault.INVALID)
        return f"{self._root}/{name}"

    def _data(self, name: VolumeName) -> str:
        return f"{self._folder(name)}/_data"

    def _lock(self, name: VolumeName) -> trio.Lock:
        return self._locks.setdefault(name, trio.Lock())


def is_mount_point(path: str) -> bool:
    """Whether something is mounted exactly here, binds of the same file system included."""
    wanted = os.path.realpath(path)
    with open("/proc/self/mountinfo") as file:
        return any(line.split(" ")[4].encode().decode("unicode_escape") == wanted for line in file)


def _make_directories(data_root: str, folder: str, owner: tuple[int, int], size_bytes: int) -> None:
    """owner: of the data, the containers' root. size_bytes: of all that will be in the folder, 0 for no limit."""
    os.makedirs(os.path.dirname(folder), _ROOT_MODE, exist_ok=True)
    if size_bytes and not os.path.exists(f"{folder}/_data"):
        if not quota.supported(data_root):
            raise PortError("create volume", NO_QUOTAS, fault=Fault.INVALID)
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, _ROOT_MODE)
        quota.limit(folder, data_root, size_bytes)
    for path, mode, (uid, gid) in ((folder, _ROOT_MODE, (0, 0)), (f"{folder}/_data", _DATA_MODE, owner)):
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, mode)
            os.chmod(path, mode)  # whatever the umask took.
            os.chown(path, uid, gid)


def _mount_once(request: MountRequest, target: str) -> None:
    if is_mount_point(target):
        return
    try:
        request = with_addresses(request)
        # Propagation is a call of its own, and a bind takes other flags only when it is made anew in place.
        kernel.mount(request.device, target, request.kind, request.flags & ~PROPAGATION, request.data)
        if request.flags & kernel.MS_BIND and request.flags & BIND_CHANGES:
            kernel.mount("", target, "", request.flags & ~PROPAGATION | kernel.MS_REMOUNT)
        if request.flags & PROPAGATION:
            kernel.mount("", target, "", request.flags & (PROPAGATION | kernel.MS_REC))
    except OSError as error:
        with contextlib.suppress(OSError):
            kernel.umount(target)
        words = (error.strerror or str(error)).lower()
        message = f"failed to mount local volume: mount {request.device}:{target}, flags: {request.flags:#x}: {words}"
        raise PortError("mount volume", message, errno=error.errno or 0) from error


def with_addresses(request: MountRequest) -> MountRequest:
    """nfs and cifs know numbers only: `addr=<name>` is looked up, as mount.nfs would."""
    if request.kind not in ("nfs", "nfs4", "cifs"):
        return request
    words = request.data.split(",") if request.data else []
    address = next((word[5:] for word in words if word.startswith("addr=")), "")
    if not address and request.kind == "cifs":
        address = request.device.strip("/").partition("/")[0]
        words.append(f"addr={address}")
    if not address:
        return request
    try:
        found = str(socket.getaddrinfo(address, None, type=socket.SOCK_STREAM)[0][4][0])
    except socket.gaierror as error:
        message = f"error resolving passed in network volume address: lookup {address}: no such host"
        raise PortError("mount volume", message, fault=Fault.INVALID, retriable=True) from error
    words = [f"addr={found}" if word == f"addr={address}" else word for word in words]
    return msgspec.structs.replace(request, data=",".join(words))


def _unmount(target: str) -> None:
    while is_mount_point(target):
        kernel.umount(target, kernel.MNT_DETACH)


def _empty(places: Places, directory: str) -> None:
    mounted = is_mount_point(directory)  # another file system: nothing can be renamed away from it.
    for child in list(os.scandir(directory)):
        if not mounted:
            places.discard(child.path)
        elif child.is_dir(follow_symlinks=False):
            shutil.rmtree(child.path)
        else:
            os.unlink(child.path)
