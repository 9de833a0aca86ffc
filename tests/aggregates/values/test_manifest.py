"""Manifests, platforms and chain ids: what is read, what is chosen, what is refused."""

from __future__ import annotations

import json

import pytest

from engine.aggregates.decider import Reason, Rejected
from engine.aggregates.values.descriptor import (
    DOCKER_CONFIG,
    DOCKER_LAYER_GZIP,
    DOCKER_LAYER_ZSTD,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
    Descriptor,
)
from engine.aggregates.values.ids import DiffID, Digest
from engine.aggregates.values.layers import chain_ids
from engine.aggregates.values.manifest import (
    ImageIndex,
    Manifest,
    choose,
    layer_history,
    parse_image_config,
    parse_manifest,
    render_for_registry,
    render_manifest,
)
from engine.aggregates.values.platform import Platform, fallbacks, parse

ONE, TWO = "sha256:" + "1" * 64, "sha256:" + "2" * 64
HOST = Platform(os="linux", architecture="amd64")


def index_of(*platforms: str, **annotations: str) -> ImageIndex:
    entries = []
    for number, text in enumerate(platforms):
        names = dict(zip(("os", "architecture", "variant"), text.split("/"), strict=False))
        digest = "sha256:" + f"{number:064x}"
        entries.append({"mediaType": "m", "size": 1, "digest": digest, "platform": names if text else None})
    index = parse_manifest(json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode())
    assert isinstance(index, ImageIndex)
    return index


def test_a_chain_id_depends_on_all_that_lies_below() -> None:
    """The example of the OCI image specification's arithmetic, computed by hand."""
    import hashlib

    second = "sha256:" + hashlib.sha256(f"{ONE} {TWO}".encode()).hexdigest()
    assert chain_ids([DiffID(ONE), DiffID(TWO)]) == (ONE, second)
    assert chain_ids([]) == ()


def test_a_rendered_manifest_is_read_back_the_same() -> None:
    config = Descriptor(media_type="application/vnd.docker.container.image.v1+json", digest=Digest(ONE), size=7)
    layer = Descriptor(media_type=DOCKER_LAYER_GZIP, digest=Digest(TWO), size=9)
    body = render_manifest(config, [layer])
    manifest = parse_manifest(body)
    assert isinstance(manifest, Manifest)
    assert (manifest.config, manifest.layers) == (config, (layer,))
    assert body == render_manifest(config, [layer])


@pytest.mark.parametrize(
    ("below", "manifest", "names"),
    [
        (DOCKER_LAYER_GZIP, DOCKER_MANIFEST, [DOCKER_CONFIG, DOCKER_LAYER_GZIP, DOCKER_LAYER_GZIP]),
        (OCI_LAYER_ZSTD, OCI_MANIFEST, [OCI_CONFIG, OCI_LAYER_ZSTD, OCI_LAYER_GZIP]),
        (DOCKER_LAYER_ZSTD, OCI_MANIFEST, [OCI_CONFIG, OCI_LAYER_ZSTD, OCI_LAYER_GZIP]),
    ],
)
def test_a_manifest_for_a_registry_speaks_one_vocabulary(below: str, manifest: str, names: list[str]) -> None:
    """IMG-07."""
    config = Descriptor(media_type=DOCKER_CONFIG, digest=Digest(ONE), size=7)
    layers = [Descriptor(media_type=kind, digest=Digest(TWO), size=9) for kind in (below, DOCKER_LAYER_GZIP)]
    media_type, body = render_for_registry(config, layers)
    read = parse_manifest(body)
    assert isinstance(read, Manifest)
    assert media_type == read.media_type == manifest
    assert [part.media_type for part in (read.config, *read.layers)] == names


@pytest.mark.parametrize(
    ("wanted", "offered", "chosen"),
    [
        ("linux/amd64", ["linux/arm64", "linux/amd64"], 1),
        ("linux/amd64/v3", ["linux/amd64", "linux/amd64/v2"], 1),
        ("linux/amd64", ["linux/amd64/v2", "linux/amd64/v1"], 1),
        ("linux/arm/v7", ["linux/arm/v5", "linux/arm/v6"], 1),
        ("linux/arm64", ["linux/arm/v7", "linux/arm64/v8"], 1),
        ("linux/arm64/v8", ["linux/arm/v7", "linux/amd64"], 0),
        ("linux/amd64", [""], 0),
    ],
)
def test_the_best_platform_is_chosen(wanted: str, offered: list[str], chosen: int) -> None:
    found = choose(index_of(*offered), parse(wanted, HOST))
    assert int(found.descriptor.digest[7:], 16) == chosen


@pytest.mark.parametrize("offered", [["linux/arm64"], ["linux/amd64/v2"], ["windows/amd64"], []])
def test_an_image_for_other_machines_is_not_found(offered: list[str]) -> None:
    with pytest.raises(Rejected, match="no matching manifest for linux/amd64 in the manifest list entries") as refused:
        choose(index_of(*offered), HOST)
    assert refused.value.reason is Reason.NOT_FOUND


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"schemaVersion":1,"fsLayers":[]}',
        b'{"schemaVersion":2,"layers":[],"manifests":[],"config":{}}',
        b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","layers":[],"config":{}}',
        b'{"schemaVersion":2,"layers":[]}',
        b'{"schemaVersion":2,"layers":[],"config":{"digest":"sha256:../../etc","size":1}}',
        b'{"schemaVersion":2,"layers":[],"config":{"digest":"md5:1","size":-1}}',
        b'{"schemaVersion":2,"mediaType":"text/html"}',
        b" " * (5 << 20),
    ],
)
def test_what_is_no_manifest_is_refused(body: bytes) -> None:
    with pytest.raises(Rejected) as refused:
        parse_manifest(body)
    assert refused.value.reason is Reason.INVALID


def test_an_image_configuration_is_read_with_all_its_nulls() -> None:
    settings = {"Env": ["A=b"], "Cmd": "lone", "Entrypoint": None, "Labels": {"k": "v"}, "Unknown": 1}
    history = [{"created_by": "a"}, {"created_by": "b", "empty_layer": True, "comment": None}, {"created_by": "c"}]
    document = {
        "architecture": "arm64",
        "os": "linux",
        "variant": "v8",
        "author": None,
        "config": {**settings, "ExposedPorts": {"80/tcp": {}}},
        "rootfs": {"type": "layers", "diff_ids": [ONE, TWO]},
        "history": history,
    }
    config = parse_image_config(json.dumps(document).encode())
    assert (config.config.cmd, config.config.env, config.config.entrypoint) == (("lone",), ("A=b",), None)
    assert str(config.platform) == "linux/arm64/v8" and config.diff_ids == (ONE, TWO)
    assert [layer for _, layer in layer_history(config)] == [ONE, None, TWO]
    assert parse_image_config(b'{"os":"linux","rootfs":{"diff_ids":null},"config":null}').diff_ids == ()


@pytest.mark.parametrize("body", [b"{}", b'{"os":"linux"}', b'{"os":"linux","rootfs":{"diff_ids":["x"]}}', b'{"os":1}'])
def test_what_is_no_image_configuration_is_refused(body: bytes) -> None:
    with pytest.raises(Rejected):
        parse_image_config(body)


def test_platforms_have_one_spelling() -> None:
    for text, said in (
        ("linux/aarch64/v8", "linux/arm64"), ("x86_64", "linux/amd64"), ("linux", "linux/amd64"),
        ("linux/armhf", "linux/arm/v7"), ("linux/arm", "linux/arm/v7"), ("Linux/AMD64/v1", "linux/amd64"),
    ):  # fmt: skip
        assert str(parse(text, HOST)) == said
    for text in ("", "a/b/c/d", "linux//", "vax"):
        with pytest.raises(Rejected):
            parse(text, HOST)
    assert [str(one) for one in fallbacks(parse("linux/arm/v6", HOST))] == ["linux/arm/v6", "linux/arm/v5"]
    assert len(fallbacks(parse("linux/amd64/v999999999", HOST))) == 1
