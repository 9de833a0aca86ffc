"""A real registry (Debian's docker-registry) on loopback, with or without a password, and a pusher for test images."""

from __future__ import annotations

import base64
import crypt
import http.client
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.images import TestImage, digest

TOOLS = Path(__file__).parents[2] / ".tools" / "usr" / "bin"


def tool(name: str) -> str:
    """The path of a program on PATH or in .tools; skips the test when scripts/fetch-tools.sh has not been run."""
    found = shutil.which(name) or shutil.which(name, path=str(TOOLS))
    if found is None:
        pytest.skip(f"no {name}: run scripts/fetch-tools.sh")
    return found


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class TestRegistry:
    """address: `<host>:<port>`. What a test asks itself goes there in the clear."""

    __test__ = False

    def __init__(self, port: int, authorization: str = "", host: str = "127.0.0.1") -> None:
        self.address = f"{host}:{port}"
        self._headers = {"Authorization": authorization} if authorization else {}

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection(self.address, timeout=60)
        try:
            connection.request(method, path, body, {**self._headers, **headers})
            answer = connection.getresponse()
            answer.read()
        finally:
            connection.close()
        return answer

    def push(self, name: str, tag: str, image: TestImage) -> str:
        """Push an image by plain HTTP; its manifest's digest."""
        for blob in image.blobs.values():
            self.push_blob(name, blob)
        return self.push_manifest(name, tag, image.manifest, image.media_type)

    def push_blob(self, name: str, blob: bytes) -> str:
        place = self.request("POST", f"/v2/{name}/blobs/uploads/").headers["Location"]
        path = place.partition(self.address)[2] or place
        answer = self.request("PUT", f"{path}{'&' if '?' in path else '?'}digest={digest(blob)}", blob)
        assert answer.status == 201, answer.status
        return digest(blob)

    def push_manifest(self, name: str, tag: str, body: bytes, media_type: str) -> str:
        answer = self.request("PUT", f"/v2/{name}/manifests/{tag}", body, **{"Content-Type": media_type})
        assert answer.status == 201, answer.status
        return digest(body)

    def push_index(self, name: str, tag: str, images: dict[str, TestImage]) -> str:
        """Push images and an index over them; keys are `os/architecture[/variant]`."""
        entries = []
        for platform, image in images.items():
            self.push(name, digest(image.manifest), image)
            names = dict(zip(("os", "architecture", "variant"), platform.split("/"), strict=False))
            entry = {"mediaType": image.media_type, "size": len(image.manifest), "digest": digest(image.manifest)}
            entries.append({**entry, "platform": names})
        kind = "application/vnd.docker.distribution.manifest.list.v2+json"
        body = json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": entries}).encode()
        return self.push_manifest(name, tag, body, kind)


@contextmanager
def running_registry(
    directory: Path,
    *,
    users: dict[str, str] | None = None,
    host: str = "127.0.0.1",
    tls: dict[str, object] | None = None,
    auth: dict[str, object] | None = None,
    port: int | None = None,
) -> Iterator[TestRegistry]:
    """Run a registry that keeps its data below `directory`. users: name -> password for basic authentication; tls,
    auth: these parts of its configuration; port: any free one by default."""
    binary = tool("docker-registry")
    directory.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    config: dict[str, object] = {
        "version": 0.1,
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(directory / "data")}, "delete": {"enabled": True}},
        "http": {"addr": f"{host}:{port}", **({"tls": tls} if tls else {})},
        **({"auth": auth} if auth else {}),
    }
    authorization = ""
    if users:
        salt = crypt.mksalt(crypt.METHOD_BLOWFISH, rounds=16)
        lines = [f"{name}:{crypt.crypt(password, salt)}" for name, password in users.items()]
        (directory / "htpasswd").write_text("\n".join(lines) + "\n")
        config["auth"] = {"htpasswd": {"realm": "test", "path": str(directory / "htpasswd")}}
        name, password = next(iter(users.items()))
        authorization = "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()
    (directory / "config.json").write_text(json.dumps(config))  # JSON is YAML
    process = subprocess.Popen(
        [binary, "serve", str(directory / "config.json")],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={"PATH": os.defpath},
    )  # fmt: skip
    try:
        _await_port(host, port, process)
        yield TestRegistry(port, authorization, host)
    finally:
        process.terminate()
        process.wait(10)


def _await_port(host: str, port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection((host, port), timeout=1).close()
        except OSError:
            assert process.poll() is None, "the registry ended"
            assert time.monotonic() < deadline, "the registry does not listen"
            time.sleep(0.02)
        else:
            return
