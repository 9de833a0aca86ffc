"""Hostile and odd archives: what is made, and what never is."""

from __future__ import annotations

import io
import os
import random
import stat
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.drivers.linux.storage.tar_reader import TarError, TarReader
from engine.drivers.linux.storage.unpack import Rules, Unpacker, UnpackError

pytestmark = pytest.mark.root


def archive(*entries: tuple[str, dict[str, object]], data: bytes = b"", format: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar of (name, TarInfo attributes); regular files have `data` or their own `data`."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as tar:
        for name, attributes in entries:
            entry = tarfile.TarInfo(name)
            content = attributes.pop("data", data)
            for key, value in attributes.items():
                setattr(entry, key, value)
            if entry.isreg():
                entry.size = len(content)  # type: ignore[arg-type]
            tar.addfile(entry, io.BytesIO(content))  # type: ignore[arg-type]
    return out.getvalue()


def reader_of(data: bytes, step: int = 65_536) -> TarReader:
    source = io.BytesIO(data)
    return TarReader(lambda: source.read(step))


def unpack(data: bytes, root: Path, rules: Rules | None = None, step: int = 65_536) -> Unpacker:
    root.mkdir(exist_ok=True)
    fd = os.open(root, os.O_PATH | os.O_DIRECTORY)
    previous = os.umask(0)
    try:
        unpacker = Unpacker(fd, rules or Rules(layer=True))
        unpacker.apply(reader_of(data, step))
        return unpacker
    finally:
        os.umask(previous)
        os.close(fd)


LINK: dict[str, object] = {"type": tarfile.SYMTYPE}
DIR: dict[str, object] = {"type": tarfile.DIRTYPE, "mode": 0o755}


@pytest.mark.parametrize(
    "entries",
    [
        [("../planted", {})],
        [("a/../../planted", {})],
        [("link", {**LINK, "linkname": ".."}), ("link/planted", {})],
        [("link", {**LINK, "linkname": "OUTSIDE"}), ("link/planted", {})],
        [("d", DIR), ("d/up", {**LINK, "linkname": "../.."}), ("d/up/up/planted", {})],
        [("one", {**LINK, "linkname": "two"}), ("two", {**LINK, "linkname": "OUTSIDE"}), ("one/planted", {})],
        [("link", {**LINK, "linkname": "OUTSIDE/secret"}), ("link", {"data": b"overwritten"})],
        [("d", DIR), ("d/f", {}), ("d", {**LINK, "linkname": "OUTSIDE"}), ("d/planted", {})],
        [("hard", {"type": tarfile.LNKTYPE, "linkname": "OUTSIDE/secret"})],
        [("hard", {"type": tarfile.LNKTYPE, "linkname": "../outside/secret"})],
        [("up", {**LINK, "linkname": "OUTSIDE"}), ("hard", {"type": tarfile.LNKTYPE, "linkname": "up/secret"})],
        [("link", {**LINK, "linkname": "OUTSIDE"}), ("link/.wh.secret", {})],
        [("link", {**LINK, "linkname": "OUTSIDE"}), ("link/.wh..wh..opq", {})],
        [(".wh...", {})],
        [("/proc/self/root/planted", {})],
    ],
)
def test_nothing_is_ever_made_outside_of_the_root(tmp_path: Path, entries: list[tuple[str, dict[str, object]]]) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("host")
    for _, more in entries:
        if "linkname" in more:
            more["linkname"] = str(more["linkname"]).replace("OUTSIDE", str(outside))
    try:
        unpack(archive(*((name, dict(more)) for name, more in entries)), tmp_path / "root")
    except (UnpackError, OSError):
        pass  # refused, or made inside: both keep the host as it was.
    assert [(child.name, child.read_text()) for child in outside.iterdir()] == [("secret", "host")]
    assert os.listxattr(outside) == []
    assert sorted(child.name for child in tmp_path.iterdir()) == ["outside", "root"]
    assert all(child.stat(follow_symlinks=False).st_nlink == 1 for child in outside.iterdir())


def test_a_link_to_a_directory_is_followed_inside_the_root_as_after_chroot(tmp_path: Path) -> None:
    entries = archive(
        ("usr/lib", DIR), ("lib", {**LINK, "linkname": "/usr/lib"}), ("lib/so", {"data": b"1"}),
        ("up", {**LINK, "linkname": "../../../usr"}), ("up/lib/so2", {}),
    )  # fmt: skip
    unpack(entries, tmp_path / "root")
    assert sorted(os.listdir(tmp_path / "root/usr/lib")) == ["so", "so2"]


def test_every_kind_of_file_keeps_its_attributes(tmp_path: Path) -> None:
    pax = {"SCHILY.xattr.user.note": "hello", "SCHILY.xattr.trusted.overlay.redirect": "/etc", "mtime": "1.000000005"}
    attributes = {"mode": 0o4751, "uid": 3_000_000_000, "gid": 7, "pax_headers": pax}
    entries = archive(
        ("f", {"data": b"x"}),  # its attributes come with its last name
        ("twin", {"type": tarfile.LNKTYPE, "linkname": "f", **attributes}),
        ("d", {"type": tarfile.DIRTYPE, "mode": 0o3777, "mtime": 42}),
        ("d/inside", {"mtime": 99}),
        ("null", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3, "mode": 0o666}),
        ("pipe", {"type": tarfile.FIFOTYPE, "mode": 0o600}),
        ("n" * 200, {"mode": 0o600}),
        ("l", {**LINK, "linkname": "t" * 300, "uid": 5}),
        ("é/ü", {}),
    )
    root = tmp_path / "root"
    unpacker = unpack(entries, root)
    found = os.stat(root / "f")
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o4751, 3_000_000_000, 7)
    assert (found.st_mtime_ns, found.st_nlink) == (1_000_000_005, 2)
    assert os.listxattr(root / "f") == ["user.note"]
    assert (stat.S_IMODE(os.stat(root / "d").st_mode), os.stat(root / "d").st_mtime) == (0o3777, 42)
    assert os.stat(root / "null").st_rdev == os.makedev(1, 3)
    assert stat.S_ISFIFO(os.stat(root / "pipe").st_mode)
    assert os.readlink(root / "l") == "t" * 300 and os.lstat(root / "l").st_uid == 5
    assert (root / "é/ü").exists() and (root / ("n" * 200)).exists()
    assert unpacker.implied == ["é".encode()]


def test_a_later_entry_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    entries = archive(
        ("a", DIR), ("a/deep/er", {}), ("a", {"data": b"file"}), ("b", {}), ("b", DIR), ("b/in", {}),
        ("c", {"data": b"1"}), ("c", {"data": b"22"}), ("h", {"type": tarfile.LNKTYPE, "linkname": "c"}),
        ("h", {"type": tarfile.LNKTYPE, "linkname": "c"}), ("d/x", {}), ("d", {**LINK, "linkname": "b"}), ("d/y", {}),
    )  # fmt: skip
    root = tmp_path / "root"
    unpack(entries, root)
    assert (root / "a").read_bytes() == b"file" and (root / "c").read_bytes() == b"22" == (root / "h").read_bytes()
    assert sorted(os.listdir(root / "b")) == ["in", "y"]


def test_whiteouts_hide_what_is_below_and_never_their_own_layer(tmp_path: Path) -> None:
    entries = archive(
        (".wh.gone", {}), ("kept", {"data": b"k"}), (".wh.kept", {}), (".wh.again", {}), ("again", DIR),
        ("again/in", {}), ("tree", DIR), ("tree/in", {}), (".wh.tree", {}), (".wh..wh.plnk", DIR), (".wh..wh.aufs", {}),
        (".wh.implied", {}), ("implied/in", {}),
    )  # fmt: skip
    root = tmp_path / "root"
    unpack(entries, root)
    assert sorted(os.listdir(root)) == ["again", "gone", "implied", "kept", "tree"]
    assert stat.S_ISCHR(os.lstat(root / "gone").st_mode) and (root / "kept").read_bytes() == b"k"
    for name in ("again", "tree", "implied"):
        assert os.getxattr(root / name, "trusted.overlay.opaque") == b"y" and (root / name / "in").exists()


@pytest.mark.parametrize(
    "how", [["--format=gnu"], *(["--format=posix", f"--sparse-version={version}"] for version in ("0.0", "0.1", "1.0"))]
)
def test_sparse_files_of_gnu_tar_come_out_whole_and_sparse(tmp_path: Path, how: list[str]) -> None:
    source = tmp_path / "source"
    source.mkdir()
    with open(source / "sparse", "wb") as out:
        for number in range(40):
            out.seek(number * 1_000_000)
            out.write(os.urandom(5000))
        out.truncate(60_000_000)
    (source / "after").write_text("next")
    packed = subprocess.run(["tar", "-S", "-C", source, "-c", *how, "sparse", "after"], capture_output=True, check=True)
    unpack(packed.stdout, tmp_path / "root", step=10_007)
    made = tmp_path / "root/sparse"
    assert made.read_bytes() == (source / "sparse").read_bytes()
    assert os.stat(made).st_blocks * 512 < 2_000_000
    assert (tmp_path / "root/after").read_text() == "next"


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_the_reader_agrees_with_the_standard_librarys(format: int) -> None:
    rng = random.Random(format)
    entries: list[tuple[str, dict[str, object]]] = []
    for number in range(100):
        name = "/".join("d" * rng.randrange(1, 30) for _ in range(rng.randrange(1, 5))) + str(number)
        data = rng.randbytes(rng.choice((0, 1, 511, 512, 513, 70_000)))
        entries.append((name, {"data": data, "mtime": number, "mode": rng.randrange(0o7777)}))
    data = archive(*[(name, dict(more)) for name, more in entries], format=format)
    for step in (1000, 512, 1 << 20):
        reader = reader_of(data, step)
        found = [(entry.name.decode(), b"".join(reader.chunks()), entry.mode, entry.mtime_ns) for entry in reader]
        expected = [(name, more["data"], more["mode"], int(str(more["mtime"])) * 10**9) for name, more in entries]
        assert found == expected


def _header_with(change: Callable[[bytearray], None]) -> bytes:
    block = bytearray(archive(("f", {"data": b"x" * 10}), format=tarfile.USTAR_FORMAT))
    change(block)
    block[148:156] = b"        "
    block[148:156] = b"%06o\0 " % sum(block[:512])
    return bytes(block)


@pytest.mark.parametrize(
    "data",
    [
        archive(("f", {"data": b"x" * 5000}))[:3000],
        archive(("f", {}))[:300],
        b"\1" * 1024,
        _header_with(lambda block: block.__setitem__(slice(124, 136), b"\x80" + b"\xff" * 11)),
        _header_with(lambda block: block.__setitem__(slice(124, 136), b"not a number")),
        _header_with(lambda block: block.__setitem__(156, ord("Z"))),
        _header_with(lambda block: block.__setitem__(slice(124, 157), b"77777777777\0" + bytes(20) + b"x")),
        archive(("f", {"pax_headers": {"k": "v"}})).replace(b"6 k=v\n", b"9 k=v\n"),
        archive(("f", {"pax_headers": {"k": "v"}})).replace(b"6 k=v\n", b"x k=v\n"),
        archive(("f", {"pax_headers": {"GNU.sparse.map": "0,5,3,9", "GNU.sparse.size": "20"}, "data": b"x" * 14})),
        archive(("f", {"pax_headers": {"GNU.sparse.map": "0,99999999", "GNU.sparse.size": "999999999"}})),
    ],
)
def test_a_damaged_archive_is_refused(data: bytes, tmp_path: Path) -> None:
    with pytest.raises((TarError, UnpackError)):
        unpack(data, tmp_path / "root")


def test_random_damage_never_ends_in_anything_but_a_refusal(tmp_path: Path) -> None:
    """A small fuzz: whatever is done to the bytes, the outcome is files, a refusal or the kernel's error."""
    whole = archive(
        ("d", DIR), ("d/f", {"data": b"x" * 700, "pax_headers": {"SCHILY.xattr.user.a": "b"}}),
        ("l", {**LINK, "linkname": "d"}), ("l/g", {}), ("n" * 150, {}),
        ("h", {"type": tarfile.LNKTYPE, "linkname": "d/f"}),
    )  # fmt: skip
    rng = random.Random(7)
    for number in range(300):
        data = bytearray(whole)
        for _ in range(rng.randrange(1, 6)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            unpack(bytes(data), tmp_path / f"root{number}")
        except (TarError, UnpackError, OSError):
            continue
