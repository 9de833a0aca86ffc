"""Where a container's mounts come from, resolved: the value between a request's `-v` and the kernel's mount."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from engine.aggregates.values.ids import ChainID, ImageID


class MountPoint(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One mount of a container, in the order it is made.

    type: `bind`, `volume`, `tmpfs` or `image`. source: the host path (for a volume its mountpoint, for an image the
    name it was asked for by; empty for tmpfs). image_id, layers: of an image, lowest layer first. lowers: where they
    lie, topmost first; known at the start, never stored.
    name, driver: of the volume. propagation: `rprivate` unless asked. anonymous: the volume ends with `rm -v`.
    read_only_non_recursive: what is mounted below a read-only bind stays writable.
    copy_up: fill the volume from the image when it is empty. subpath: below the volume's root, symlink-safe.
    options: of a tmpfs (`size=64m`, `mode=1777`). relabel and consistency words stay in `mode` for inspect.
    """

    type: str
    destination: str
    source: str = ""
    name: str = ""
    driver: str = ""
    mode: str = ""
    rw: bool = True
    propagation: str = ""
    anonymous: bool = False
    copy_up: bool = False
    create_source: bool = False
    non_recursive: bool = False
    read_only_non_recursive: bool = False
    subpath: str = ""
    options: tuple[str, ...] = ()
    image_id: ImageID = ImageID("")
    layers: tuple[ChainID, ...] = ()
    lowers: tuple[str, ...] = ()
    volume_labels: Mapping[str, str] | None = None
    volume_options: Mapping[str, str] | None = None
    from_spec: bool = False
    """Asked by HostConfig.Mounts (`--mount`) rather than by `-v`: a missing bind source is an error."""
