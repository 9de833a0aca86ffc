"""docker-py's own integration suite against this engine, or against any other one for comparison.

    scripts/docker_py_suite.py CHECKOUT [--host unix:///path [--network NAME]] [--junit FILE] [MODULE_OR_ARGUMENT ...]

CHECKOUT is a clone of docker/docker-py. Without --host an engine is started for the run, in a network namespace of its
own; with it the engine at that socket is used as it stands. The images that the suite wants are made of the host's
static busybox and loaded under their names, and for what it pulls a registry with the same images stands in as a mirror
of Docker Hub (an engine at --host, in the named network --network, has to have been told so: MIRROR). So nothing is
fetched but the suite's own libraries, once, into .tools.

The suite speaks the API version it was written for (1.45), or the engine's newest if that is older. Prints pytest's
report and one line per module: passed, failed, skipped. Ends with pytest's status. Needs root.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import os
import subprocess
import sys
import tempfile
import venv
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import docker

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.support.engine import Engine  # noqa: E402 # the repository's root has to be on the path first
from tests.support.images import TestImage, busybox_layer, image_of, layer_of  # noqa: E402
from tests.support.outside import standing_in  # noqa: E402
from tests.support.registry import running_registry  # noqa: E402

LIBRARIES = ROOT / ".tools" / "docker-py-suite"
IMAGES = ("alpine:3.10", "alpine:latest", "busybox:latest", "busybox:buildroot-2014.02")
CONTAINERS = (
    "api_container_test", "api_exec_test", "api_healthcheck_test", "models_containers_test", "regression_test",
)  # fmt: skip
OTHERS = (
    "api_client_test", "api_image_test", "api_network_test", "api_volume_test", "client_test", "errors_test",
    "models_images_test", "models_networks_test", "models_resources_test", "models_volumes_test",
)  # fmt: skip
PEOPLE = b"root:x:0:0:root:/root:/bin/sh\npostgres:x:70:70::/:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n"
GROUPS = b"root:x:0:root\nadm:x:4:root\nftp:x:21:\npostgres:x:70:\nusers:x:100:\nnogroup:x:65534:\n"
PULLED = ("alpine:3.10", "alpine:latest", "busybox:latest", "hello-world:latest", "hello-world:linux")
HELLO = image_of(layer_of({"hello": b"Hello from Docker!\n"}), Cmd=["/hello"])
MIRROR_PORT = 5055
MIRROR = f"--registry-mirror=http://127.0.0.1:{MIRROR_PORT}"
API_VERSION = "1.45"
TEST_S = 60


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--host", help="use this engine instead of starting one")
    parser.add_argument("--network", help="the network namespace (ip netns) of the engine at --host")
    parser.add_argument("--junit", type=Path, help="keep the report")
    parser.add_argument("arguments", nargs="*", help="modules (api_exec_test), or anything pytest takes")
    given, more = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder, engine_at(given.host, given.network, Path(folder)) as host:
        version = load_images(host)
        report = given.junit or Path(folder) / "report.xml"
        status = run(given.checkout, host, version, report, [*given.arguments, *more])
        print_counts(report)
    return status


@contextlib.contextmanager
def engine_at(host: str | None, network: str | None, folder: Path) -> Iterator[str]:
    if host is not None:
        with mirror(network, folder):
            yield host
        return
    engine = Engine(MIRROR)
    try:
        engine.start()
        with mirror(engine.name, folder):
            yield engine.host
        if "Traceback" in engine.log.read_text():
            print(engine.log.read_text()[-8000:])
    finally:
        engine.close()


@contextlib.contextmanager
def mirror(network: str | None, folder: Path) -> Iterator[None]:
    """A registry with the suite's images, on the named network's loopback."""
    with contextlib.ExitStack() as home:
        with standing_in(network) if network else contextlib.nullcontext():
            registry = home.enter_context(running_registry(folder / "registry", port=MIRROR_PORT))
            for name, _, tag in (image.partition(":") for image in PULLED):
                registry.push(f"library/{name}", tag, HELLO if name == "hello-world" else alpine())
        yield


def alpine() -> TestImage:
    return image_of(
        busybox_layer(), layer_of({"etc/passwd": PEOPLE, "etc/group": GROUPS, "var/opt": None}),
        Cmd=["/bin/sh"], Env=["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
    )  # fmt: skip


def load_images(host: str) -> str:
    """The API version to speak."""
    client = docker.DockerClient(base_url=host, version="auto", timeout=120)
    client.images.load(alpine().docker_archive(*IMAGES))
    newest = str(client.version()["ApiVersion"])
    client.close()
    return min(newest, API_VERSION, key=lambda version: [int(part) for part in version.split(".")])


def run(checkout: Path, host: str, version: str, report: Path, arguments: list[str]) -> int:
    python = LIBRARIES / "bin" / "python"
    if not python.exists():
        venv.create(LIBRARIES, with_pip=True)
        wanted = ["docker[ssh,websockets]", "pytest", "pytest-timeout"]
        subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True)
    chosen = [word for word in arguments if not word.startswith("-") and word in CONTAINERS + OTHERS]
    rest = [word for word in arguments if word not in chosen]
    modules = [f"tests/integration/{name}.py" for name in chosen or CONTAINERS + OTHERS]
    command = [python, "-m", "pytest", f"--timeout={TEST_S}", "-q", f"--junitxml={report.resolve()}", *modules, *rest]
    environment = {
        **os.environ, "DOCKER_HOST": host, "DOCKER_CONFIG": str(report.parent.resolve()),
        "DOCKER_TEST_API_VERSION": version,
    }  # fmt: skip
    return subprocess.run(command, cwd=checkout, env=environment, check=False).returncode


def print_counts(report: Path) -> None:
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for case in ET.parse(report).iter("testcase"):  # noqa: S314 # written by our own pytest a moment ago
        module = case.get("classname", "").split(".")[2]
        outcome = next((child.tag for child in case if child.tag in ("failure", "error", "skipped")), "passed")
        counts[module]["failed" if outcome in ("failure", "error") else outcome] += 1
    for module, count in sorted(counts.items()):
        print(f"{module:24} {count['passed']:4} passed {count['failed']:4} failed {count['skipped']:4} skipped")


if __name__ == "__main__":
    sys.exit(main())
