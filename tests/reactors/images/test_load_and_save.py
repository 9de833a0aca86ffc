"""Loading, saving and importing as a user sees it."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import lzma
import os
import socket
import tarfile
import urllib.parse
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.aggregates.transfer import BeginTransfer, LeaseContent, TransferFailed
from engine.aggregates.values.ids import DiffID
from engine.aggregates.values.layers import chain_ids
from engine.drivers.linux.storage.blobs import LAYER_TAR
from tests.api.harness import connected, in_thread
from tests.api.test_server import read_all
from tests.reactors.images.test_pull import once
from tests.support.images import digest, image_of, layer_of
from tests.support.served_engine import MemoryRegistry, TestEngine, running_engine

pytestmark = pytest.mark.root

BASE = layer_of({"bin": None, "bin/sh": b"#!" + bytes(50_000)})
TOP = layer_of({"etc": None, "etc/motd": b"hello\n"})
TAR = {"Content-Type": "application/x-tar"}


@pytest.mark.parametrize("wrap", [bytes, gzip.compress])
async def test_a_docker_archive_is_loaded_with_its_names(tmp_path: Path, wrap: object) -> None:
    image = image_of(BASE, TOP)
    async with running_engine(tmp_path) as engine:
        body = wrap(image.docker_archive("busybox:1.36", "mine:v1"))  # type: ignore[operator]  # a function of bytes
        lines = await engine.lines("POST", "/images/load?quiet=1", body, headers=TAR)
        assert lines == [
            {"stream": "Loaded image: busybox:1.36\n"},
            {"stream": "Loaded image: mine:v1\n"},
        ]
        _, shown = await engine.ask("GET", "/images/mine:v1/json")
        assert shown["Id"] == image.image_id
        assert shown["RepoTags"] == ["busybox:1.36", "mine:v1"]
        assert shown["RootFS"]["Layers"] == image.diff_ids
        tree = Path(shown["GraphDriver"]["Data"]["UpperDir"])
        assert (tree / "etc/motd").read_bytes() == b"hello\n"
        assert engine.hands.application.live("transfer") == ()
        assert await engine.images.collect() == 0, "nothing is left that is not the image's"


async def test_an_oci_layout_without_names_is_told_by_its_id(tmp_path: Path) -> None:
    image = image_of(BASE, oci=True)
    async with running_engine(tmp_path) as engine:
        lines = await engine.lines("POST", "/images/load?quiet=0", image.oci_archive(), headers=TAR)
        assert lines[-1] == {"stream": f"Loaded image ID: {image.image_id}\n"}
        assert lines[0]["status"] == "Loading layer"


async def test_a_name_moves_to_the_loaded_image_and_that_is_said(tmp_path: Path) -> None:
    old, new = image_of(BASE), image_of(TOP)
    async with running_engine(tmp_path) as engine:
        await engine.lines("POST", "/images/load", old.docker_archive("mine:v1"), headers=TAR)
        lines = await engine.lines("POST", "/images/load", new.docker_archive("mine:v1"), headers=TAR)
        assert "already exists, renaming the old one with ID" in lines[0]["stream"]
        _, images = await engine.ask("GET", "/images/json")
        assert {image["Id"]: image["RepoTags"] for image in images} == {
            old.image_id: [],
            new.image_id: ["mine:v1"],
        }


@pytest.mark.parametrize("body", [b"", b"no archive" * 200, layer_of({"something": b"else"})])
async def test_what_is_no_image_archive_is_refused_and_leaves_nothing(tmp_path: Path, body: bytes) -> None:
    async with running_engine(tmp_path) as engine:
        lines = await engine.lines("POST", "/images/load", body, headers=TAR)
        assert lines[-1]["error"] == lines[-1]["errorDetail"]["message"] != "", "told in the stream, as dockerd does"
        inventory = await engine.storage.layers.inventory()
        assert (inventory.blobs, inventory.layers) == ((), ())
        events = [one.event for one in engine.hands.application.read(0, 100)]
        assert isinstance(events[-1], TransferFailed)


async def test_a_layer_that_is_not_what_the_configuration_says_fails_the_load(tmp_path: Path) -> None:
    image = image_of(BASE)
    image.layers = [TOP]
    async with running_engine(tmp_path) as engine:
        lines = await engine.lines("POST", "/images/load", image.docker_archive("bad:v1"), headers=TAR)
        assert lines[-1]["error"]
        assert (await engine.ask("GET", "/images/json"))[1] == []
        assert (await engine.storage.layers.inventory()).blobs == ()


@pytest.mark.parametrize("wrap", [bytes, gzip.compress, lzma.compress])
async def test_an_archive_may_come_in_chunks(tmp_path: Path, wrap: Callable[[bytes], bytes]) -> None:
    """IMG-15. As the docker CLI sends it, which knows no length."""
    body = wrap(image_of(BASE, layer_of({"noise": os.urandom(700_000)})).docker_archive("mine:v1"))
    async with running_engine(tmp_path) as engine:
        status, _, told = await engine.served.ask(
            "POST", "/images/load", body=iter([body[at : at + 30_001] for at in range(0, len(body), 30_001)])
        )
        assert (status, json.loads(told)) == (200, {"stream": "Loaded image: mine:v1\n"})


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("polite", [True, False])
async def test_a_client_that_leaves_in_the_middle_of_its_archive_leaves_nothing(
    tmp_path: Path, *, chunked: bool, polite: bool
) -> None:
    """IMG-15. polite: it ends its input, and hears what came of that."""
    body = image_of(BASE, layer_of({"noise": os.urandom(3_000_000)})).docker_archive("mine:v1")
    length = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(body)
    sent = b"POST /images/load HTTP/1.1\r\nHost: d\r\n%b\r\n\r\n" % length
    sent += b"%x\r\n" % len(body) * chunked + body[:-1_000_000]

    def talk(path: str) -> bytes:
        with contextlib.closing(connected(path)) as sock:
            sock.sendall(sent)
            if not polite:
                return b""
            sock.shutdown(socket.SHUT_WR)
            return read_all(sock)

    async with running_engine(tmp_path) as engine:
        told = await in_thread(lambda: talk(engine.served.path))
        assert (b'"error":"unexpected EOF"' in told) == polite
        await engine.until(lambda: isinstance([*engine.hands.application.read(0, 100)][-1].event, TransferFailed))
        await engine.until(lambda: not engine.storage.workers.at_work)
        inventory = await engine.storage.layers.inventory()
        assert (inventory.blobs, inventory.layers) == ((), ())
        assert os.listdir(engine.storage.places.temporary) == []
        assert await engine.lines("POST", "/images/load", body) == [{"stream": "Loaded image: mine:v1\n"}]


async def test_a_saved_image_loads_elsewhere_with_the_same_digests(tmp_path: Path) -> None:
    registry = MemoryRegistry()
    image = image_of(BASE, TOP)
    found = registry.push("docker.io/library/alpine", "3", image)
    async with running_engine(tmp_path / "one", registry_port=registry) as engine:
        await engine.lines("POST", "/images/create?fromImage=alpine&tag=3")
        await engine.ask("POST", "/images/alpine:3/tag?repo=mine&tag=v1")
        _, archive = await engine.ask("GET", "/images/get?names=alpine:3&names=mine")
        _, same = await engine.ask("GET", "/images/get?names=alpine:3&names=mine")
        assert archive == same
        status, answer = await engine.ask("GET", "/images/nothing/get")
        assert (status, answer["message"]) == (404, "No such image: nothing:latest")
    names = tarfile.open(fileobj=io.BytesIO(archive)).getnames()
    assert {"index.json", "manifest.json", "oci-layout", f"blobs/sha256/{found[7:]}"} <= set(names)
    async with running_engine(tmp_path / "two") as engine:
        lines = await engine.lines("POST", "/images/load", archive, headers=TAR)
        assert sorted(line["stream"] for line in lines) == [
            "Loaded image: alpine:3\n",
            "Loaded image: mine:v1\n",
        ]
        state = engine.hands.views.images.find("mine:v1")
        assert state.image_id == image.image_id
        assert [layer.blob.digest for layer in state.layers] == [
            digest(image.blobs[entry["digest"]]) for entry in json.loads(image.manifest)["layers"]
        ]
        _, again = await engine.ask("GET", "/images/mine:v1/get")
        assert f"blobs/sha256/{found[7:]}" in tarfile.open(fileobj=io.BytesIO(again)).getnames()


async def test_an_import_becomes_an_image_with_the_changes_asked_for(tmp_path: Path) -> None:
    async with running_engine(tmp_path) as engine:
        query = urllib.parse.urlencode(
            [
                ("fromSrc", "-"), ("repo", "mine"), ("tag", "v1"), ("message", "from a tar"),
                ("changes", 'CMD ["/bin/sh"]'), ("changes", "ENV A=1"), ("platform", "linux/amd64"),
            ]
        )  # fmt: skip
        lines = await engine.lines("POST", f"/images/create?{query}", BASE, headers=TAR)
        identifier = lines[-1]["status"]
        _, shown = await engine.ask("GET", "/images/mine:v1/json")
        assert shown["Id"] == identifier
        assert shown["Config"] == {"Cmd": ["/bin/sh"], "Env": ["A=1"]}
        assert shown["Comment"] == "from a tar"
        assert shown["RootFS"]["Layers"] == [digest(BASE)]
        assert Path(shown["GraphDriver"]["Data"]["UpperDir"], "bin/sh").stat().st_size == 50_002
        bad = urllib.parse.urlencode({"fromSrc": "-", "changes": "RUN make"})
        status, answer = await engine.ask("POST", f"/images/create?{bad}", BASE, headers=TAR)
        assert (status, answer["message"]) == (400, "RUN is not a valid change command")


async def test_a_load_that_a_crash_cut_off_leaves_the_layers_that_were_whole_to_the_next_one(tmp_path: Path) -> None:
    """IMG-26: they are leased, and the lease ends with the load that has brought all of them."""
    image = image_of(BASE, TOP)
    chain = chain_ids([DiffID(each) for each in image.diff_ids])

    async def cut_off(engine: TestEngine) -> None:
        begin = BeginTransfer(transfer_id="t1", at=1, kind="load", reference="")
        await engine.execute(begin, LeaseContent(transfer_id="t1", layers=chain))
        blob = await engine.storage.blobs.ingest(once(BASE))
        await engine.storage.layers.unpack(blob.digest, LAYER_TAR, DiffID(image.diff_ids[0]), None)
        assert await engine.images.recover() == 1, "the blob, which the next archive brings again"
        assert (await engine.storage.layers.inventory()).layers == chain[:1]

    async with running_engine(tmp_path, prepare=cut_off) as engine:
        before = os.stat(engine.storage.layers.lowers(chain)[1]).st_ino
        await engine.lines("POST", "/images/load", image.docker_archive("mine:v1"), headers=TAR)
        assert os.stat(engine.storage.layers.lowers(chain)[1]).st_ino == before
        assert engine.hands.application.live("transfer") == ()


async def test_the_layers_of_a_load_that_failed_go_at_once(tmp_path: Path) -> None:
    """IMG-26: an archive that is no good has no second try."""
    image = image_of(BASE, TOP)
    image.layers = [BASE, BASE]
    async with running_engine(tmp_path) as engine:
        lines = await engine.lines("POST", "/images/load", image.docker_archive("bad:v1"), headers=TAR)
        assert lines[-1]["error"]
        assert (await engine.storage.layers.inventory()).layers == ()
        assert engine.hands.application.live("transfer") == ()
