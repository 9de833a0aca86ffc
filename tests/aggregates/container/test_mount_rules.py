"""`-v`, `--mount`, `--tmpfs`, `--volumes-from` and VOLUME, read as Docker reads them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from engine.aggregates.container.mount_rules import from_mount, mount_points, parse_bind
from engine.aggregates.decider import Reason, Rejected
from engine.aggregates.values.config import ContainerConfig, HostConfig, Mount
from engine.aggregates.values.mounts import MountPoint

NEW = "f" * 64


def nobody(name: str) -> tuple[MountPoint, ...]:
    raise Rejected(Reason.NOT_FOUND, f"No such container: {name}")


def points(config: dict | None = None, *, mounts_of=nobody, **host: Any) -> dict[str, MountPoint]:
    found = mount_points(
        ContainerConfig(**(config or {})), HostConfig(**host), new_name=lambda: NEW, mounts_of=mounts_of
    )
    assert len({point.destination for point in found}) == len(found)
    return {point.destination: point for point in found}


def bind(destination: str, source: str, **given: Any) -> MountPoint:
    defaults = {"type": "bind", "create_source": True, "propagation": "rprivate"}
    return MountPoint(destination=destination, source=source, **(defaults | given))


def volume(destination: str, name: str, **given: Any) -> MountPoint:
    defaults = {"type": "volume", "driver": "local", "mode": "z", "copy_up": True}
    return MountPoint(destination=destination, name=name, **(defaults | given))


@pytest.mark.parametrize(
    ("spec", "point"),
    [
        ("/a:/b", bind("/b", "/a")),
        ("/a/../c//d/:/b/", bind("/b", "/c/d")),
        ("/a:/b:ro", bind("/b", "/a", rw=False, mode="ro")),
        ("/a:/b:rw,z", bind("/b", "/a", mode="rw,z")),
        ("/a:/b:rshared,Z", bind("/b", "/a", propagation="rshared", mode="rshared,Z")),
        ("/a:/b:cached", bind("/b", "/a", mode="cached")),
        ("/a:/b:", bind("/b", "/a")),
        ("data:/b", volume("/b", "data")),
        ("data:/b:ro", volume("/b", "data", rw=False, mode="ro")),
        ("data:/b:nocopy", volume("/b", "data", copy_up=False, mode="nocopy")),
        ("data.1_x-y:/b", volume("/b", "data.1_x-y")),
    ],
)
def test_a_bind_is_read_as_docker_reads_it(spec: str, point: MountPoint) -> None:
    assert parse_bind(spec, "", lambda: "made") == point


def test_a_destination_alone_is_a_volume_without_a_name() -> None:
    """CTR-39: as docker-py's `volumes=["/b"]` sends it."""
    point = parse_bind("/b/", "", lambda: "made")
    assert (point.type, point.destination, point.name, point.anonymous) == ("volume", "/b", "made", True)
    for spec in ("b", "/", ""):
        with pytest.raises(Rejected, match="invalid volume specification"):
            parse_bind(spec, "", lambda: "made")


def test_a_volume_driver_is_for_volumes() -> None:
    assert parse_bind("data:/b", "nfs", lambda: "made").driver == "nfs"
    assert parse_bind("/a:/b", "nfs", lambda: "made").driver == ""


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (":/b", "invalid volume specification: ':/b'"),
        ("/a:", "invalid volume specification: '/a:'"),
        ("a:/b:ro:x", "invalid volume specification: 'a:/b:ro:x'"),
        ("/a:ro", "invalid volume specification: '/a:ro'"),
        ("/a:/b:fish", "invalid mode: fish"),
        ("/a:/b:ro,rw", "invalid mode: ro,rw"),
        ("/a:/b:z,Z", "invalid mode: z,Z"),
        ("/a:/b:shared,slave", "invalid mode: shared,slave"),
        ("/a:/b:cached,delegated", "invalid mode: cached,delegated"),
        ("/a:/b:ro,ro", "invalid mode: ro,ro"),
        ("/a:/b:ro,", "invalid mode: ro,"),
        (
            "/a:b",
            "invalid volume specification: '/a:b': invalid mount config for type \"bind\": "
            "invalid mount path: 'b' mount path must be absolute",
        ),
        (
            "a:/",
            "invalid volume specification: 'a:/': invalid mount config for type \"volume\": "
            "invalid specification: destination can't be '/'",
        ),
        (
            "/a:/..",
            "invalid volume specification: '/a:/..': invalid mount config for type \"bind\": "
            "invalid specification: destination can't be '/'",
        ),
        (
            "./a:/b",
            'create ./a: "./a" includes invalid characters for a local volume name, only "[a-zA-Z0-9][a-zA-Z0-9_.-]" '
            "are allowed. If you intended to pass a host directory, use absolute path",
        ),
        (
            "data:/b:rshared",
            "invalid volume specification: 'data:/b:rshared': invalid mount config for type \"volume\": "
            "field BindOptions must not be specified",
        ),
        (
            "/a:/b:nocopy",
            "invalid volume specification: '/a:/b:nocopy': invalid mount config for type \"bind\": "
            "field VolumeOptions must not be specified",
        ),
    ],
)
def test_a_bind_is_refused_in_dockers_words(spec: str, words: str) -> None:
    with pytest.raises(Rejected) as caught:
        parse_bind(spec, "", lambda: "made")
    assert (caught.value.reason, caught.value.message) == (Reason.INVALID, words)


def read(text: str) -> MountPoint:
    return from_mount(msgspec.json.decode(text, type=Mount), lambda: NEW)


@pytest.mark.parametrize(
    ("text", "point"),
    [
        (
            '{"Type": "bind", "Source": "/a", "Target": "/b/"}',
            bind("/b", "/a", create_source=False, from_spec=True),
        ),
        (
            '{"Type": "bind", "Source": "/a", "Target": "/b", "ReadOnly": true, '
            '"BindOptions": {"Propagation": "slave", "NonRecursive": true, "CreateMountpoint": true}}',
            bind("/b", "/a", rw=False, propagation="slave", non_recursive=True, from_spec=True),
        ),
        ('{"Type": "volume", "Source": "data", "Target": "/b"}', volume("/b", "data", from_spec=True)),
        ('{"Type": "volume", "Target": "/b"}', volume("/b", NEW, anonymous=True, from_spec=True)),
        (
            '{"Type": "volume", "Source": "data", "Target": "/b", "VolumeOptions": {"NoCopy": true, '
            '"Labels": {"a": "b"}, "Subpath": "s", "DriverConfig": {"Name": "nfs", "Options": {"o": "1"}}}}',
            volume(
                "/b",
                "data",
                from_spec=True,
                copy_up=False,
                volume_labels={"a": "b"},
                subpath="s",
                driver="nfs",
                volume_options={"o": "1"},
            ),
        ),
        (
            '{"Type": "tmpfs", "Target": "/b", "TmpfsOptions": {"SizeBytes": 65536, "Mode": 1023, '
            '"Options": [["noexec"]]}}',
            MountPoint(
                type="tmpfs", destination="/b", options=("mode=1777", "size=65536", "noexec"), from_spec=True
            ),
        ),
    ],
)
def test_a_mount_is_read_as_docker_reads_it(text: str, point: MountPoint) -> None:
    assert read(text) == point


@pytest.mark.parametrize(
    ("kind", "fields", "words"),
    [
        ("image", '"Target": "/b"', "field Source must not be empty"),
        (
            "image",
            '"Source": "i", "Target": "/b", "ImageOptions": {"Subpath": "../x"}',
            "subpath must be a relative path within the volume",
        ),
        (
            "volume",
            '"Source": "vol", "Target": "/b", "VolumeOptions": {"Subpath": "a/../../x"}',
            "subpath must be a relative path within the volume",
        ),
        (
            "volume",
            '"Source": "vol", "Target": "/b", "VolumeOptions": {"Subpath": "/x"}',
            "subpath must be a relative path within the volume",
        ),
        (
            "volume",
            '"Target": "/b", "VolumeOptions": {"Subpath": "x"}',
            "must not set Subpath when using anonymous volumes",
        ),
        ("tmpfs", '"Target": "/b", "TmpfsOptions": {"Options": [["uid", "5"]]}', "invalid option: uid"),
        ("odd", '"Target": "/b"', "mount type unknown"),
        ("bind", '"Source": "/a"', "field Target must not be empty"),
        ("bind", '"Source": "/a", "Target": "b"', "invalid mount path: 'b' mount path must be absolute"),
        ("bind", '"Source": "/a", "Target": "/"', "invalid specification: destination can't be '/'"),
        ("bind", '"Target": "/b"', "field Source must not be empty"),
        ("bind", '"Source": "a", "Target": "/b"', "invalid mount path: 'a' mount path must be absolute"),
        ("bind", '"Source": "/a", "Target": "/b", "VolumeOptions": {}', "field VolumeOptions must not be specified"),
        (
            "bind",
            '"Source": "/a", "Target": "/b", "BindOptions": {"Propagation": "odd"}',
            "invalid propagation mode: odd",
        ),
        (
            "bind",
            '"Source": "/a", "Target": "/b", "BindOptions": {"ReadOnlyNonRecursive": true}',
            "mount source is ReadOnlyNonRecursive but not ReadOnly",
        ),
        (
            "bind",
            '"Source": "/a", "Target": "/b", "ReadOnly": true, '
            '"BindOptions": {"ReadOnlyNonRecursive": true, "ReadOnlyForceRecursive": true}',
            "ReadOnlyForceRecursive and ReadOnlyNonRecursive cannot both be set",
        ),
        ("volume", '"Target": "/b", "BindOptions": {}', "field BindOptions must not be specified"),
        (
            "volume",
            '"Target": "/b", "ReadOnly": true',
            "must not set ReadOnly mode when using anonymous volumes",
        ),
        ("tmpfs", '"Target": "/b", "Source": "/a"', "field Source must not be specified"),
        ("tmpfs", '"Target": "/b", "BindOptions": {}', "field BindOptions must not be specified"),
        ("fish", '"Target": "/b"', "mount type unknown"),
    ],
)
def test_a_mount_is_refused_in_dockers_words(kind: str, fields: str, words: str) -> None:
    with pytest.raises(Rejected) as caught:
        read(f'{{"Type": "{kind}", {fields}}}')
    assert caught.value.message == f'invalid mount config for type "{kind}": {words}'


def test_a_volume_of_the_image_gets_a_volume_of_its_own() -> None:
    assert points({"volumes": {"/data/": {}}}) == {
        "/data": MountPoint(type="volume", destination="/data", name=NEW, driver="local", anonymous=True, copy_up=True)
    }


def test_everything_wins_over_a_volume_of_the_image() -> None:
    config = {"volumes": {"/a": {}, "/b": {}, "/c": {}}}
    found = points(config, binds=("/x:/a",), mounts=(Mount(type="tmpfs", target="/b"),), tmpfs={"/c": "size=1m"})
    assert {path: point.type for path, point in found.items()} == {"/a": "bind", "/b": "tmpfs", "/c": "tmpfs"}
    assert found["/c"].options == ("size=1m",)


@pytest.mark.parametrize(
    "host",
    [
        {"binds": ("/x:/a", "/y:/a/")},
        {"binds": ("/x:/a",), "mounts": (Mount(type="tmpfs", target="/a"),)},
        {"binds": ("/x:/a",), "tmpfs": {"/a": ""}},
    ],
)
def test_a_destination_is_mounted_once(host: dict) -> None:
    with pytest.raises(Rejected, match="Duplicate mount point: /a"):
        points(**host)


DONOR = (
    volume("/data", "data", anonymous=True),
    bind("/conf", "/etc", rw=False),
    MountPoint(type="tmpfs", destination="/tmp"),
)


@pytest.mark.parametrize(
    ("mode", "writable"), [("", True), (":rw", True), (":ro", False), (":z", True), (":ro,z", False)]
)
def test_the_mounts_of_another_container_come_without_its_tmpfs(mode: str, writable: bool) -> None:
    found = points(volumes_from=(f"donor{mode}",), mounts_of=lambda name: DONOR if name == "donor" else nobody(name))
    assert set(found) == {"/data", "/conf"}
    assert (found["/data"].rw, found["/conf"].rw) == (writable, False)
    assert not found["/data"].anonymous, "the volume belongs to the donor"


def test_a_mount_of_ones_own_wins_over_another_containers() -> None:
    found = points(volumes_from=("donor",), binds=("/mine:/data",), mounts_of=lambda name: DONOR)
    assert found["/data"].source == "/mine"


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("", "volumes-from specification cannot be an empty string"),
        ("donor:fish", "invalid mode: fish"),
        ("donor:rshared", "invalid mode: rshared"),
        ("donor:nocopy", "invalid mode: nocopy"),
        ("stranger", "No such container: stranger"),
    ],
)
def test_volumes_from_is_refused_in_dockers_words(spec: str, words: str) -> None:
    with pytest.raises(Rejected) as caught:
        points(volumes_from=(spec,))
    assert caught.value.message == words


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("foo=1m", 'invalid tmpfs option ["foo" "1m"]'),
        ("size", 'invalid tmpfs option ["size"]'),
        ("size=1m,bind", 'invalid tmpfs option ["bind"]'),
        ("mode=700,ro=1", 'invalid tmpfs option ["ro" "1"]'),
    ],
)
def test_options_of_a_tmpfs_are_refused_in_dockers_words(options: str, words: str) -> None:
    with pytest.raises(Rejected) as caught:
        points(tmpfs={"/t": options})
    assert (caught.value.reason, caught.value.message) == (Reason.INVALID, words)
