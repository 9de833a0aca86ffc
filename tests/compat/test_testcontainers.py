"""What testcontainers and its like do in a test session (API-23): throw-away services on random ports, found again by
label, and a reaper inside a container that speaks to the engine through its mounted socket."""

from __future__ import annotations

import io
import itertools
import tarfile
from collections.abc import Iterator

import docker
import pytest
from docker.errors import NotFound
from docker.models.containers import Container

from tests.support.engine import Engine
from tests.support.registry import tool

pytestmark = pytest.mark.root
SESSION = {"org.testcontainers": "true", "org.testcontainers.session-id": "a1"}
SERVE = "mkdir -p /www; echo hello > /www/index; echo database system is ready; exec httpd -f -p 8080 -h /www"


@pytest.fixture
def client(engine: Engine) -> Iterator[docker.DockerClient]:
    with engine.client() as client:
        yield client


def service(client: docker.DockerClient, **options: object) -> Container:
    """Started as testcontainers does: created, then started, all its ports on free ports of the host."""
    container = client.containers.create(
        "busybox",
        ["sh", "-c", SERVE],
        ports={"8080/tcp": None},
        labels=SESSION,
        environment={"MODE": "test"},
        **options,
    )
    container.start()
    return container


def wait_for_line(container: Container, words: str) -> None:
    for line in container.logs(stream=True, follow=True):
        if words in line.decode():
            return
    raise AssertionError(f"{container.name} ended without saying {words!r}")


def fetch(engine: Engine, port: int) -> str:
    address = f"http://127.0.0.1:{port}/index"
    return engine.in_namespace("busybox", "wget", "-q", "-O", "-", address, check=False).stdout


def test_services_side_by_side_on_random_ports(engine: Engine, client: docker.DockerClient) -> None:
    """The port is asked for after the start; two of the same kind do not meet."""
    services = [service(client) for _ in range(2)]
    ports = []
    for container in services:
        wait_for_line(container, "database system is ready")
        found = client.api.port(container.id, 8080)
        ports.append(int(found[0]["HostPort"]))
        container.reload()
        assert container.ports["8080/tcp"] == found
        engine.wait_for(lambda: fetch(engine, ports[-1]) == "hello\n")
    assert ports[0] != ports[1]
    assert client.api.port(services[0].id, 9999) is None


def test_files_commands_and_logs(client: docker.DockerClient) -> None:
    container = service(client)
    wait_for_line(container, "ready")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        entry = tarfile.TarInfo("seed/data.sql")
        entry.size, entry.mode = 4, 0o600
        tar.addfile(entry, io.BytesIO(b"seed"))
    assert container.put_archive("/", out.getvalue())
    assert container.exec_run(["cat", "/seed/data.sql"]) == (0, b"seed")
    chunks, found = container.get_archive("/seed/data.sql", encode_stream=True)
    assert (found["name"], found["size"], found["mode"] & 0o777) == ("data.sql", 4, 0o600)
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as tar:
        assert tar.extractfile("data.sql").read() == b"seed"  # type: ignore[union-attr]
    with pytest.raises(NotFound):
        container.get_archive("/nosuch")
    assert container.exec_run("sh -c 'echo $MODE'").output == b"test\n"
    assert container.logs(stdout=True, stderr=False).endswith(b"database system is ready\n")
    assert container.attrs["Config"]["Labels"] == SESSION


def test_a_network_of_the_session(client: docker.DockerClient) -> None:
    """Made with labels, joined with an alias, found by label, gone after the last container."""
    network = client.networks.create("session-net", labels=SESSION)
    server = service(client, name="db")
    network.connect(server, aliases=["database"])
    wait_for_line(server, "ready")
    output = client.containers.run(
        "busybox", ["nslookup", "database."], network="session-net", labels=SESSION, remove=True
    )
    server.reload()
    assert server.attrs["NetworkSettings"]["Networks"]["session-net"]["IPAddress"].encode() in output
    assert [found.id for found in client.networks.list(filters={"label": "org.testcontainers=true"})] == [network.id]
    server.remove(force=True, v=True)
    network.remove()
    assert client.networks.list(filters={"label": ["org.testcontainers=true"]}) == []


def test_a_reaper_with_the_mounted_socket(engine: Engine, client: docker.DockerClient) -> None:
    """Ryuk's way: inside a container, list by label and remove what the session left; the reaper itself stays."""
    keep = client.containers.run("busybox", ["sleep", "1000"], detach=True)
    left = [service(client, volumes=["/cache"]) for _ in range(2)]
    volume = client.volumes.create("session-volume", labels=SESSION)
    network = client.networks.create("session-net", labels=SESSION)
    sweep = (
        "for kind in container network volume; do "
        "/docker $kind ls -q --filter label=org.testcontainers.session-id=a1 $(test $kind = container && echo -a) |"
        "while read -r id; do /docker $kind rm $(test $kind = network || echo -f) $id; done; done"
    )
    # The CLI may be linked against the host's libraries.
    host = itertools.chain.from_iterable(("-v", f"{path}:{path}:ro") for path in ("/usr", "/lib", "/lib64"))
    done = engine.cli(
        "run", "--rm", "-v", f"{engine.socket}:/var/run/docker.sock", "-v", f"{tool('docker')}:/docker:ro", *host,
        "-e", "HOME=/tmp", "busybox", "sh", "-c", sweep,
    )  # fmt: skip
    assert {container.id[:12] for container in left} <= set(done.stdout.split())
    assert [container.id for container in client.containers.list(all=True)] == [keep.id]
    assert volume.name not in [found.name for found in client.volumes.list()]
    assert network.id not in [found.id for found in client.networks.list()]
