"""Images made from the machine's static busybox, as files and as blobs: no network, same bytes every time."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile
from dataclasses import dataclass, field

BUSYBOX = "/bin/busybox"


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclass
class TestImage:
    """layers: uncompressed tars, lowest first; config: its JSON."""

    __test__ = False

    layers: list[bytes]
    config: bytes
    compress: str = "gzip"
    blobs: dict[str, bytes] = field(default_factory=dict)
    manifest: bytes = b""
    media_type: str = "application/vnd.docker.distribution.manifest.v2+json"

    @property
    def diff_ids(self) -> list[str]:
        return [digest(layer) for layer in self.layers]

    @property
    def image_id(self) -> str:
        return digest(self.config)

    def build(self) -> TestImage:
        """Fill blobs and manifest."""
        oci = "oci" in self.media_type
        descriptors = []
        for layer in self.layers:
            blob, kind = compressed(layer, self.compress, oci=oci)
            self.blobs[digest(blob)] = blob
            descriptors.append({"mediaType": kind, "size": len(blob), "digest": digest(blob)})
        self.blobs[self.image_id] = self.config
        config_kind = (
            "application/vnd.oci.image.config.v1+json" if oci else "application/vnd.docker.container.image.v1+json"
        )
        self.manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": self.media_type,
                "config": {"mediaType": config_kind, "size": len(self.config), "digest": self.image_id},
                "layers": descriptors,
            }
        ).encode()
        return self

    def docker_archive(self, *tags: str) -> bytes:
        """The tar that `docker save` wrote before OCI layouts."""
        out = io.BytesIO()
        name = self.image_id[7:] + ".json"
        with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            add(tar, name, self.config)
            paths = []
            for number, layer in enumerate(self.layers):
                paths.append(f"{number}/layer.tar")
                add(tar, paths[-1], layer)
            entry = {"Config": name, "RepoTags": list(tags) or None, "Layers": paths}
            add(tar, "manifest.json", json.dumps([entry]).encode())
        return out.getvalue()

    def oci_archive(self, *tags: str) -> bytes:
        """An OCI image layout as a tar, without manifest.json."""
        if not self.manifest:
            self.build()
        out = io.BytesIO()
        entries = [
            {
                "mediaType": self.media_type,
                "size": len(self.manifest),
                "digest": digest(self.manifest),
                "annotations": {
                    "io.containerd.image.name": tag,
                    "org.opencontainers.image.ref.name": tag.rpartition(":")[2],
                },
            }
            for tag in tags or ("",)
        ]
        if not tags:
            del entries[0]["annotations"]
        index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": entries}
        with tarfile.open(fileobj=out, mode="w") as tar:
            for name, blob in {**self.blobs, digest(self.manifest): self.manifest}.items():
                add(tar, "blobs/sha256/" + name[7:], blob)
            add(tar, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
            add(tar, "index.json", json.dumps(index).encode())
        return out.getvalue()


def compressed(layer: bytes, how: str, *, oci: bool = False) -> tuple[bytes, str]:
    base = "application/vnd.oci.image.layer.v1.tar" if oci else "application/vnd.docker.image.rootfs.diff.tar"
    joint = "+" if oci else "."
    if how == "gzip":
        return gzip.compress(layer, 6, mtime=0), f"{base}{joint}gzip"
    if how == "zstd":
        import zstandard

        return zstandard.ZstdCompressor().compress(layer), f"{base}{joint}zstd"
    return layer, base


def add(
    tar: tarfile.TarFile, name: str, data: bytes = b"", mode: int = 0o644, kind: bytes = tarfile.REGTYPE, link: str = ""
) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.type, entry.linkname = len(data), mode, kind, link
    tar.addfile(entry, io.BytesIO(data))


def layer_of(files: dict[str, bytes | None], **extra: object) -> bytes:
    """A layer tar from path -> content; None makes a directory. Keys starting with `.wh.` are whiteouts as they
    stand."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in files.items():
            if data is None:
                add(tar, name, mode=0o755, kind=tarfile.DIRTYPE)
            else:
                add(tar, name, data)
    return out.getvalue()


def busybox_layer() -> bytes:
    """Busybox and links for all its applets, with the directories a container expects."""
    out = io.BytesIO()
    with open(BUSYBOX, "rb") as binary, tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for folder, mode in (("bin", 0o755), ("etc", 0o755), ("tmp", 0o1777), ("root", 0o700), ("var", 0o755)):
            add(tar, folder, mode=mode, kind=tarfile.DIRTYPE)
        add(tar, "bin/busybox", binary.read(), 0o755)
        applets = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split()
        for applet in applets:
            if applet != "busybox":
                add(tar, "bin/" + applet, kind=tarfile.SYMTYPE, link="busybox")
        add(tar, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
        add(tar, "etc/group", b"root:x:0:\nnogroup:x:65534:\n")
    return out.getvalue()


def image_of(*layers: bytes, compress: str = "gzip", oci: bool = False, **config: object) -> TestImage:
    """An image of the given layers. config: fields of its container configuration (Cmd=[...], Env=[...])."""
    document = {
        "architecture": "amd64",
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": config or {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": f"layer {n}"} for n in range(len(layers))],
    }
    kind = (
        "application/vnd.oci.image.manifest.v1+json" if oci else "application/vnd.docker.distribution.manifest.v2+json"
    )
    image = TestImage(layers=list(layers), config=json.dumps(document).encode(), compress=compress, media_type=kind)
    return image.build()


def busybox_image(**options: object) -> TestImage:
    return image_of(busybox_layer(), **options)  # type: ignore[arg-type] # forwarded to image_of's own keywords


def write_docker_archive(path: str, *tags: str) -> str:
    """A busybox docker-archive at `path`; its path."""
    with open(path + ".new", "wb") as out:
        out.write(busybox_image().docker_archive(*tags))
    os.rename(path + ".new", path)
    return path
