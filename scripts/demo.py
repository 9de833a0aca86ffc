"""`make demo`: start an engine, run a first container, print its output and then its story from the log.

Everything lives in a temporary folder and in a network namespace of its own; at the end nothing is left.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import docker

BUSYBOX = Path("/bin/busybox")
NAMESPACE = f"ishmael-demo-{os.getpid()}"
START_S = 120.0


def main() -> int:
    if os.geteuid() != 0:
        print("make demo needs root: it makes namespaces, mounts and cgroups.", file=sys.stderr)
        return 1
    root = Path(tempfile.mkdtemp(prefix="ishmael-demo-"))
    subprocess.run(["ip", "netns", "add", NAMESPACE], check=True)
    try:
        subprocess.run(["ip", "-n", NAMESPACE, "link", "set", "lo", "up"], check=True)
        return demonstrate(root)
    finally:
        end_supervisor(root)
        subprocess.run(["ip", "netns", "delete", NAMESPACE], check=False)
        shutil.rmtree(root, ignore_errors=True)


def demonstrate(root: Path) -> int:
    engine = start(root)
    try:
        client = docker.DockerClient(base_url=f"unix://{root}/engine.sock", version="auto")
        say("A first image, made of the host's own busybox:")
        client.images.load(busybox_archive())
        print("  busybox:latest")
        say("A first container, `docker run --rm --name first busybox echo ...`:")
        output = client.containers.run(
            "busybox", ["echo", "Call me Ishmael."], name="first", remove=True, environment={"SECRET": "whale"}
        )
        print(f"  {output.decode().strip()}")
        client.close()
    finally:
        engine.send_signal(signal.SIGTERM)
        status = engine.wait(30)
    say("And its story, told from the log alone (the engine has stopped):")
    replay = [sys.executable, "-m", "replay", "--log", f"{root}/data/events.db"]
    told = subprocess.run([*replay, "why", "first"], check=False).returncode
    verified = subprocess.run([*replay, "verify"], check=False).returncode
    return status or told or verified


def start(root: Path) -> subprocess.Popen[bytes]:
    (root / "daemon.json").write_text("{}")
    command = [
        "nsenter", f"--net=/run/netns/{NAMESPACE}", sys.executable, "-m", "engine",
        "-H", f"unix://{root}/engine.sock", "--data-root", f"{root}/data", "--exec-root", f"{root}/exec",
        "--pidfile", f"{root}/pid", "--config-file", f"{root}/daemon.json", "-l", "error",
    ]  # fmt: skip
    engine = subprocess.Popen(command)
    deadline = time.monotonic() + START_S
    while not (root / "engine.sock").exists():
        if engine.poll() is not None or time.monotonic() > deadline:
            raise SystemExit("the engine did not start")
        time.sleep(0.05)
    return engine


def busybox_archive() -> bytes:
    """A docker-archive of one layer: busybox and a name for each of its commands."""
    names = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split()
    layer = tar(
        [directory("bin"), directory("tmp", 0o1777), regular("bin/busybox", BUSYBOX.read_bytes(), 0o755)]
        + [hardlink(f"bin/{name}", "bin/busybox") for name in names if name != "busybox"]
    )
    digest = sha256(layer)
    config = encode(
        {
            "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine),
            "os": "linux",
            "config": {"Cmd": ["sh"], "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
            "history": [{"created_by": "busybox-static"}],
        }
    )
    manifest = encode(
        [{"Config": f"{sha256(config)}.json", "RepoTags": ["busybox:latest"], "Layers": [f"{digest}/layer.tar"]}]
    )
    return tar(
        [
            regular(f"{digest}/layer.tar", layer),
            regular(f"{sha256(config)}.json", config),
            regular("manifest.json", manifest),
        ]
    )


def tar(members: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def regular(name: str, data: bytes, mode: int = 0o644) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), mode
    return info, data


def directory(name: str, mode: int = 0o755) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.mode = tarfile.DIRTYPE, mode
    return info, b""


def hardlink(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = tarfile.LNKTYPE, target, 0o755
    return info, b""


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def encode(value: object) -> bytes:
    return json.dumps(value).encode()


def end_supervisor(root: Path) -> None:
    """The supervisor outlives its engine by design; here nobody will come back to it."""
    mark = f"{root}/exec".encode()
    for entry in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if mark in Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0"):
                os.kill(int(entry), signal.SIGKILL)


def say(text: str) -> None:
    print(f"\n\033[1m{text}\033[0m", flush=True)


if __name__ == "__main__":
    sys.exit(main())
