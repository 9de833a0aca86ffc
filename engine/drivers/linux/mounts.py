"""Mounts under the engine's roots, compared with the log.

Owns: the mount table of the engine's own namespace. Nothing is mounted there but volumes with a device, while somebody
uses them; root filesystems are mounted in containers only. The roots' own directories (`volumes`, `content`, ...) may
be file systems of the administrator's, so only what lies inside of them is looked at.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial

import trio

from engine.aggregates.values.drift import Deviation, Difference
from engine.aggregates.values.ids import VolumeName
from engine.drivers.linux.storage import kernel
from engine.drivers.linux.volume.options import mount_request
from engine.drivers.ports.drift import Ledger
from engine.drivers.ports.volume import Volumes
from engine.errors import PortError

MOUNT = "mount"
OURS = ("containers", "content", "grounds", "layers", "rootfs", "tmp", "trash", "volumes")


class LinuxMountInspector:
    """See engine/drivers/ports/drift.py, Inspector."""

    def __init__(self, data_root: str, exec_root: str, volumes: Volumes) -> None:
        self._data_root = data_root
        self._exec_root = exec_root
        self._driver = volumes

    async def look(self, ledger: Ledger) -> Sequence[Difference]:
        return await trio.to_thread.run_sync(self._look, ledger)

    def _look(self, ledger: Ledger) -> list[Difference]:
        found = mount_points()
        data_root = os.path.realpath(self._data_root)
        inside = (*(f"{data_root}/{name}/" for name in OURS), f"{os.path.realpath(self._exec_root)}/")
        with_device = [name for name, options in ledger.volumes.items() if mount_request(options)]
        places = {name: f"{data_root}/volumes/{name}/_data" for name in with_device}
        wanted = {places[name]: name for name in ledger.mounted if name in places}
        # What nobody uses any more is given back by the start itself, without a word.
        allowed = {place for name, place in places.items() if ledger.recovering or name in ledger.in_use}
        missing = [
            Difference(kind=MOUNT, deviation=Deviation.MISSING, subject=place, owner=name)
            for place, name in wanted.items()
            if place not in found
        ]
        strays = [place for place in found if place.startswith(inside) and place not in allowed]
        # The innermost first: it must go before what it lies on.
        strays.sort(key=len, reverse=True)
        return [*missing, *(Difference(kind=MOUNT, deviation=Deviation.STRAY, subject=place) for place in strays)]

    async def mend(self, difference: Difference, ledger: Ledger) -> None:
        if difference.deviation is Deviation.MISSING:
            name = VolumeName(difference.owner)
            await self._driver.mount(name, ledger.volumes[name])
            return
        undo = partial(kernel.umount, difference.subject, kernel.MNT_DETACH)
        try:
            await trio.to_thread.run_sync(undo)
        except OSError as error:
            words = f"umount {difference.subject}: {(error.strerror or '').lower()}"
            raise PortError("mend", words, errno=error.errno or 0) from error


def mount_points() -> list[str]:
    """Of the calling process's mount namespace, in the order they were made; two on one place are two."""
    with open("/proc/self/mountinfo") as table:
        return [line.split(" ")[4].encode().decode("unicode_escape") for line in table]
