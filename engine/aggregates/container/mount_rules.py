"""From `-v`, `--mount`, `--tmpfs` and VOLUME to mount points (CTR-39, CTR-41), in moby's words.

Pure: names for anonymous volumes come in, one per use. Source: moby daemon/volumes.go, volume/mounts/linux_parser.go.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Mapping

from msgspec.structs import replace

from engine.aggregates.decider import Reason, Rejected
from engine.aggregates.values.config import BindOptions, ContainerConfig, HostConfig, Mount
from engine.aggregates.values.ids import RESTRICTED_NAME
from engine.aggregates.values.mounts import MountPoint

PROPAGATIONS = frozenset({"private", "rprivate", "slave", "rslave", "shared", "rshared"})
TMPFS_FLAGS = frozenset(
    {"async", "atime", "defaults", "dev", "diratime", "dirsync", "exec", "mand", "noatime", "nodev", "nodiratime",
     "noexec", "nomand", "norelatime", "nostrictatime", "nosuid", "private", "relatime", "ro", "rprivate", "rshared",
     "rslave", "runbindable", "rw", "shared", "slave", "strictatime", "suid", "sync", "unbindable"}
)  # fmt: skip
TMPFS_DATA = frozenset({"size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol"})
NewName = Callable[[], str]
FindMounts = Callable[[str], tuple[MountPoint, ...]]
"""The mounts of another container, by id or name (--volumes-from)."""


def mount_points(
    config: ContainerConfig, host: HostConfig, *, new_name: NewName, mounts_of: FindMounts
) -> tuple[MountPoint, ...]:
    """All mounts of a container, each destination once. Later sources win over volumes-from, and everything wins over
    an image's VOLUME. Raises Rejected(INVALID)."""
    points: dict[str, MountPoint] = {}
    for spec in host.volumes_from or ():
        points |= {point.destination: point for point in _volumes_from(spec, mounts_of)}
    given: set[str] = set()
    for point in (
        *(parse_bind(bind, host.volume_driver, new_name) for bind in host.binds or ()),
        *(from_mount(mount, new_name) for mount in host.mounts or ()),
    ):
        if point.destination in given:
            raise Rejected(Reason.INVALID, f"Duplicate mount point: {point.destination}")
        given.add(point.destination)
        points[point.destination] = point
    for destination, options in (host.tmpfs or {}).items():
        path = _destination(destination)
        if path in given:
            raise Rejected(Reason.INVALID, f"Duplicate mount point: {path}")
        given.add(path)
        points[path] = MountPoint(type="tmpfs", destination=path, options=_tmpfs_options(options), mode=options)
    for destination in config.volumes or {}:
        path = _destination(destination)
        if path not in points:
            points[path] = _anonymous(path, new_name(), host.volume_driver)
    return tuple(points.values())


def _anonymous(destination: str, name: str, driver: str) -> MountPoint:
    return MountPoint(
        type="volume",
        destination=destination,
        name=name,
        driver=driver or "local",
        anonymous=True,
        copy_up=True,
    )


def parse_bind(spec: str, volume_driver: str, new_name: NewName) -> MountPoint:
    """One `[src:]dst[:options]`; src is a path (bind) or a name (volume), none is a volume without a name (docker-py
    sends such)."""
    parts = spec.split(":")
    if len(parts) == 1 and spec:
        return replace(_anonymous(_destination(spec, spec, "volume"), new_name(), volume_driver), mode="z")
    if len(parts) not in (2, 3) or not all(parts[:2]) or (len(parts) == 2 and _valid_mode(parts[1])):
        raise Rejected(Reason.INVALID, f"invalid volume specification: '{spec}'")
    mode = parts[2] if len(parts) == 3 else ""
    if mode and not _valid_mode(mode):
        raise Rejected(Reason.INVALID, f"invalid mode: {mode}")
    kind = "bind" if parts[0].startswith("/") else "volume"
    source, destination, options = parts[0], _destination(parts[1], spec, kind), _split(mode)
    propagation = next((option for option in options if option in PROPAGATIONS), "")
    point = MountPoint(type="bind", destination=destination, mode=mode, rw="ro" not in options)
    if kind == "bind":
        _refuse_field(spec, "bind", "VolumeOptions", given="nocopy" in options)
        clean = posixpath.normpath(source)
        return replace(point, source=clean, create_source=True, propagation=propagation or "rprivate")
    _refuse_field(spec, "volume", "BindOptions", given=bool(propagation))
    if not RESTRICTED_NAME.fullmatch(source):
        raise Rejected(
            Reason.INVALID,
            f'create {source}: "{source}" includes invalid characters for a local volume name, only '
            '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path',
        )
    return replace(
        point,
        type="volume",
        name=source,
        driver=volume_driver or "local",
        mode=mode or "z",
        copy_up="nocopy" not in options,
    )


_MODES: Mapping[str, str] = {
    **dict.fromkeys(("ro", "rw"), "access"),
    **dict.fromkeys(("z", "Z"), "label"),
    **dict.fromkeys(PROPAGATIONS, "propagation"),
    "nocopy": "copy",
    **dict.fromkeys(("consistent", "cached", "delegated"), "consistency"),
}


def _valid_mode(mode: str) -> bool:
    """Whether these are options of `-v`, at most one of each kind."""
    kinds = [_MODES.get(option, "") for option in mode.split(",")]
    return all(kinds) and len(set(kinds)) == len(kinds)


def _refuse_field(spec: str, kind: str, field: str, *, given: bool) -> None:
    if given:
        raise Rejected(
            Reason.INVALID,
            f"invalid volume specification: '{spec}': invalid mount config for type \"{kind}\": "
            f"field {field} must not be specified",
        )


def _destination(path: str, spec: str = "", kind: str = "") -> str:
    """spec: of `-v`, which the refusal of a destination names with the kind of mount."""
    words = f"invalid volume specification: '{spec}': invalid mount config for type \"{kind}\": " if spec else ""
    if not path.startswith("/"):
        raise Rejected(Reason.INVALID, f"{words}invalid mount path: '{path}' mount path must be absolute")
    clean = posixpath.normpath(path).replace("//", "/")
    if clean == "/":
        raise Rejected(Reason.INVALID, f"{words}invalid specification: destination can't be '/'")
    return clean


def from_mount(mount: Mount, new_name: NewName) -> MountPoint:
    """One entry of HostConfig.Mounts."""
    if mount.type in ("npipe", "cluster"):
        raise Rejected(Reason.NOT_IMPLEMENTED, f"mounts of type {mount.type} are not implemented")
    if not mount.target:
        raise _invalid_mount(mount, "field Target must not be empty")
    if not mount.target.startswith("/"):
        raise _invalid_mount(mount, f"invalid mount path: '{mount.target}' mount path must be absolute")
    destination = posixpath.normpath(mount.target).replace("//", "/")
    if destination == "/":
        raise _invalid_mount(mount, "invalid specification: destination can't be '/'")
    match mount.type:
        case "bind":
            return _bind(mount, destination)
        case "volume":
            return _volume(mount, destination, new_name)
        case "tmpfs":
            return _tmpfs(mount, destination)
        case "image":
            return _image(mount, destination)
        case _:
            raise Rejected(Reason.INVALID, f'invalid mount config for type "{mount.type}": mount type unknown')


def _bind(mount: Mount, destination: str) -> MountPoint:
    if not mount.source:
        raise _invalid_mount(mount, "field Source must not be empty")
    if not mount.source.startswith("/"):
        raise _invalid_mount(mount, f"invalid mount path: '{mount.source}' mount path must be absolute")
    if mount.volume_options is not None:
        raise _invalid_mount(mount, "field VolumeOptions must not be specified")
    options = mount.bind_options
    propagation = options.propagation if options is not None else ""
    if propagation and propagation not in PROPAGATIONS:
        raise _invalid_mount(mount, f"invalid propagation mode: {propagation}")
    if options is not None:
        _check_read_only(mount, options)
    return MountPoint(
        type="bind",
        destination=destination,
        source=posixpath.normpath(mount.source),
        rw=not mount.read_only,
        propagation=propagation or "rprivate",
        create_source=options.create_mountpoint if options is not None else False,
        non_recursive=options.non_recursive if options is not None else False,
        read_only_non_recursive=options.read_only_non_recursive if options is not None else False,
        from_spec=True,
    )


def _check_read_only(mount: Mount, options: BindOptions) -> None:
    """The words about recursion make sense for read-only binds alone. Source: moby volume/mounts/linux_parser.go."""
    for name, wanted in (
        ("ReadOnlyNonRecursive", options.read_only_non_recursive),
        ("ReadOnlyForceRecursive", options.read_only_force_recursive),
    ):
        if wanted and not mount.read_only:
            raise _invalid_mount(mount, f"mount source is {name} but not ReadOnly")
    if options.read_only_non_recursive and options.read_only_force_recursive:
        raise _invalid_mount(mount, "ReadOnlyForceRecursive and ReadOnlyNonRecursive cannot both be set")


def _volume(mount: Mount, destination: str, new_name: NewName) -> MountPoint:
    if mount.bind_options is not None:
        raise _invalid_mount(mount, "field BindOptions must not be specified")
    if not mount.source and mount.read_only:
        raise _invalid_mount(mount, "must not set ReadOnly mode when using anonymous volumes")
    if mount.source and not RESTRICTED_NAME.fullmatch(mount.source):
        raise _invalid_mount(
            mount,
            f'create {mount.source}: "{mount.source}" includes invalid characters for a local volume name',
        )
    options = mount.volume_options
    driver = options.driver_config if options is not None else None
    subpath = _subpath(mount, options.subpath if options is not None else "")
    if subpath and not mount.source:
        raise _invalid_mount(mount, "must not set Subpath when using anonymous volumes")
    name = mount.source or new_name()
    return MountPoint(
        type="volume",
        destination=destination,
        name=name,
        driver=(driver.name if driver is not None else "") or "local",
        mode="z",
        rw=not mount.read_only,
        anonymous=not mount.source,
        copy_up=not (subpath or (options.no_copy if options is not None else False)),
        subpath=subpath,
        volume_labels=options.labels if options is not None else None,
        volume_options=driver.options if driver is not None else None,
        from_spec=True,
    )


def _image(mount: Mount, destination: str) -> MountPoint:
    """An image's files, read-only; the image itself is looked up by whoever knows images."""
    if not mount.source:
        raise _invalid_mount(mount, "field Source must not be empty")
    subpath = _subpath(mount, mount.image_options.subpath if mount.image_options is not None else "")
    return MountPoint(
        type="image",
        destination=destination,
        source=mount.source,
        subpath=subpath,
        rw=False,
        propagation="rprivate",
        from_spec=True,
    )


def _subpath(mount: Mount, subpath: str) -> str:
    """A path that stays below where it begins, as Go's filepath.IsLocal. Links in it are the kernel's business."""
    depth = 0
    for part in subpath.split("/"):
        depth += {"": 0, ".": 0, "..": -1}.get(part, 1)
        if depth < 0:
            break
    if depth < 0 or subpath.startswith("/"):
        raise _invalid_mount(mount, "subpath must be a relative path within the volume")
    return subpath


def _tmpfs(mount: Mount, destination: str) -> MountPoint:
    if mount.bind_options is not None:
        raise _invalid_mount(mount, "field BindOptions must not be specified")
    if mount.source:
        raise _invalid_mount(mount, "field Source must not be specified")
    options: list[str] = []
    if mount.tmpfs_options is not None:
        if mount.tmpfs_options.mode:
            options.append(f"mode={mount.tmpfs_options.mode:o}")
        if mount.tmpfs_options.size_bytes:
            options.append(f"size={mount.tmpfs_options.size_bytes}")
        for pair in mount.tmpfs_options.options or ():
            if not 1 <= len(pair) <= 2:
                raise _invalid_mount(mount, "invalid option array length")
            if pair[0] not in ("exec", "noexec"):
                raise _invalid_mount(mount, f"invalid option: {pair[0]}")
            options.append("=".join(pair))
    return MountPoint(
        type="tmpfs", destination=destination, options=tuple(options), rw=not mount.read_only, from_spec=True
    )


def _invalid_mount(mount: Mount, message: str) -> Rejected:
    return Rejected(Reason.INVALID, f'invalid mount config for type "{mount.type}": {message}')


def _volumes_from(spec: str, mounts_of: FindMounts) -> Iterable[MountPoint]:
    if not spec:
        raise Rejected(Reason.INVALID, "volumes-from specification cannot be an empty string")
    name, _, mode = spec.partition(":")
    if mode and (not _valid_mode(mode) or {"propagation", "copy"} & {_MODES[option] for option in mode.split(",")}):
        raise Rejected(Reason.INVALID, f"invalid mode: {mode}")
    for point in mounts_of(name):
        if point.type == "tmpfs":
            continue
        yield replace(point, rw=point.rw and "ro" not in mode.split(","), copy_up=False, anonymous=False)


def _tmpfs_options(text: str) -> tuple[str, ...]:
    """Of `--tmpfs path:options`, in the words of moby/sys/mount MergeTmpfsOptions."""
    options = _split(text)
    for option in options:
        name, equals, _ = option.partition("=")
        if option not in TMPFS_FLAGS and not (equals and name in TMPFS_DATA):
            words = " ".join(f'"{part}"' for part in option.split("=", 1))
            raise Rejected(Reason.INVALID, f"invalid tmpfs option [{words}]")
    return options


def _split(options: str) -> tuple[str, ...]:
    return tuple(filter(None, options.split(",")))
