"""Which storage driver a data root has: the one it began with, else the one that was asked for, else what works.

Owns the mark `<data-root>/storage-driver`. Layers lie in one driver's form, so another one cannot take over a data root
that has any. Source for the order: moby daemon/graphdriver/driver.go New.
"""

from __future__ import annotations

import contextlib
import logging
import os

from engine.config import ConfigError
from engine.drivers.linux.storage.errors import as_port_error
from engine.drivers.linux.storage.places import Places
from engine.drivers.linux.storage.workers import Workers
from engine.errors import PortError

OVERLAY, VFS = "overlay2", "vfs"
_logger = logging.getLogger(__name__)


async def storage_driver(data_root: str, wanted: str) -> str:
    """wanted: "" leaves the choice to us. Raises ConfigError."""
    try:
        begun = _begun_with(data_root)
        if begun and wanted not in ("", begun):
            raise ConfigError(f"storage-driver {wanted}: {data_root} has layers of {begun}; use another data-root")
        if begun:
            return begun
        chosen = wanted or await _what_works(data_root)
        if chosen == OVERLAY and wanted and (trouble := await _trouble_with_overlay(data_root)):
            raise ConfigError(f"storage-driver {OVERLAY}: not supported on the file system of {data_root}: {trouble}")
        _begin_with(data_root, chosen)
    except PortError as error:
        raise ConfigError(error.message) from error
    return chosen


def _begun_with(data_root: str) -> str:
    with as_port_error("storage driver"):
        try:
            with open(_mark(data_root), "rb") as file:
                found = file.read().strip().decode(errors="replace")
        except FileNotFoundError:
            found = ""
        if found in (OVERLAY, VFS):
            return found
        supposed = OVERLAY if os.path.isdir(Places(data_root).layers) else ""
        if found:
            _logger.error("%s is damaged: layers are taken to be of %s", _mark(data_root), supposed or "no driver")
            with contextlib.suppress(FileNotFoundError):
                os.unlink(_mark(data_root))
        return supposed  # Without a mark: from before there was a choice.


def _begin_with(data_root: str, chosen: str) -> None:
    with as_port_error("storage driver"), open(_mark(data_root), "w") as file:
        file.write(f"{chosen}\n")


async def _what_works(data_root: str) -> str:
    trouble = await _trouble_with_overlay(data_root)
    if not trouble:
        return OVERLAY
    _logger.warning(
        "no overlay can be mounted on %s (%s): layers and containers are whole copies (vfs)", data_root, trouble
    )
    return VFS


async def _trouble_with_overlay(data_root: str) -> str:
    places = Places(data_root)
    with as_port_error("storage driver"):
        directory = places.new_temporary("probe")
        os.mkdir(directory, 0o700)
    try:
        return str(await Workers().run("probe_overlay", {"directory": directory}))
    finally:
        places.discard(directory)


def _mark(data_root: str) -> str:
    return f"{data_root}/storage-driver"
