"""docker-py: `from_env()` and its objects, as programs use them."""

from __future__ import annotations

import io
import os
import tarfile
import threading
import time
from collections.abc import Iterator

import docker
import pytest
from docker.errors import APIError, ContainerError, ImageNotFound, NotFound
from docker.types import IPAMConfig, IPAMPool, Mount

from tests.support.engine import Engine
from tests.support.images import image_of, layer_of

pytestmark = pytest.mark.root


@pytest.fixture
def client(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[docker.DockerClient]:
    monkeypatch.setenv("DOCKER_HOST", engine.host)
    client = docker.from_env(timeout=60)
    yield client
    client.close()


def test_run_returns_the_output(client: docker.DockerClient) -> None:
    """CTR-14, CTR-16."""
    assert client.ping()
    assert client.containers.run("busybox", ["echo", "hi"], remove=True) == b"hi\n"
    assert client.containers.list(all=True) == []


def test_run_raises_what_went_wrong(client: docker.DockerClient) -> None:
    """CTR-02, CTR-09: the library's own errors, by status and words."""
    with pytest.raises(ContainerError) as failed:
        client.containers.run("busybox", ["sh", "-c", "echo why >&2; exit 3"], remove=True)
    assert (failed.value.exit_status, failed.value.stderr) == (3, b"why\n")
    with pytest.raises(ImageNotFound):
        client.api.create_container("nosuch")
    with pytest.raises(APIError, match="executable file not found"):
        client.containers.run("busybox", ["nosuchcommand"], remove=True, detach=True)
    # The library asks for each container listed, and an automatic removal may come between: the list itself counts.
    while client.api.containers(all=True):
        time.sleep(0.01)


def test_a_container_with_everything(client: docker.DockerClient) -> None:
    """CTR-05, CTR-22, NET-37: options there and back."""
    container = client.containers.run(
        "busybox", ["sleep", "1000"], detach=True, name="full", environment={"A": "b"}, labels={"l": "v"},
        ports={"80/tcp": None, "53/udp": ("127.0.0.1", 5300)}, mem_limit="64m", working_dir="/tmp", user="nobody",
        mounts=[Mount("/data", "vol", read_only=True)], tmpfs={"/scratch": "size=1m"},
    )  # fmt: skip
    assert container.status == "created"
    container.reload()
    assert container.status == "running"
    assert container.ports["53/udp"] == [{"HostIp": "127.0.0.1", "HostPort": "5300"}]
    assert int(container.ports["80/tcp"][0]["HostPort"]) >= 32768
    assert container.labels == {"l": "v"}
    assert container.attrs["HostConfig"]["Memory"] == 64 << 20
    code, output = container.exec_run("sh -c 'id -un; pwd; echo $A; touch /data/x'")
    assert (code, output.splitlines()[:3]) == (1, [b"nobody", b"/tmp", b"b"])
    assert [found.name for found in client.containers.list(filters={"label": "l=v"})] == ["full"]


def test_logs_at_once_and_as_a_stream(client: docker.DockerClient) -> None:
    """CTR-27."""
    container = client.containers.run("busybox", ["sh", "-c", "echo one; echo two >&2"], detach=True)
    assert container.wait()["StatusCode"] == 0
    assert container.logs() in (b"one\ntwo\n", b"two\none\n")
    assert container.logs(stdout=False) == b"two\n"
    assert container.logs(tail=0) == b""
    assert b"".join(container.logs(stream=True, follow=True, stderr=False)) == b"one\n"


def test_exec_run_in_its_forms(client: docker.DockerClient) -> None:
    """EXE-06, EXE-07, EXE-08: a code and bytes; two streams; a stream; a socket."""
    container = client.containers.run("busybox", ["sleep", "1000"], detach=True)
    assert container.exec_run(["sh", "-c", "echo out; exit 5"]) == (5, b"out\n")
    assert container.exec_run(["sh", "-c", "echo out; echo err >&2"], demux=True).output == (b"out\n", b"err\n")
    assert b"".join(container.exec_run(["echo", "streamed"], stream=True).output) == b"streamed\n"
    assert (
        container.exec_run(["sh", "-c", "echo $V; pwd"], environment={"V": "w"}, workdir="/etc").output == b"w\n/etc\n"
    )
    execution = client.api.exec_create(container.id, ["cat"], stdin=True)["Id"]
    assert client.api.exec_inspect(execution)["ExitCode"] is None
    wire = client.api.exec_start(execution, socket=True)
    wire._sock.sendall(b"through\n")
    assert wire._sock.recv(8, 0x100) == b"\x01\0\0\0\0\0\0\x08"
    assert wire._sock.recv(100) == b"through\n"
    wire._sock.close()
    wire.close()
    with pytest.raises(APIError) as refused:
        client.api.exec_start(execution)
    assert refused.value.status_code == 409


def test_frames_are_by_the_wish_of_who_starts_an_exec(client: docker.DockerClient) -> None:
    """EXE-02, EXE-07: `Tty` of the start frames or not, whatever the process has; an unframed client has one output."""
    container = client.containers.run("busybox", ["sleep", "1000"], detach=True)
    say = ["sh", "-c", "echo out; echo err >&2"]
    for has_tty, output in ((True, (b"out\r\nerr\r\n", None)), (False, (b"out\n", b"err\n"))):
        framed = client.api.exec_create(container.id, say, tty=has_tty)
        assert client.api.exec_start(framed, demux=True) == output
        raw = client.api.exec_create(container.id, say, tty=has_tty)
        assert client.api.exec_start(raw, tty=True) == output[0]
    failed = client.api.exec_create(container.id, ["nosuchcommand"])
    out, err = client.api.exec_start(failed, demux=True)
    assert (b"executable file not found" in out, err) == (True, None), "told on standard output, as by dockerd"


def test_the_runtime_that_dockerd_calls_its_own(client: docker.DockerClient) -> None:
    """SYS-23: `runc` in a compose file or a flag means the engine's own, unless one of that name was added."""
    container = client.containers.run("busybox", ["sleep", "1000"], detach=True, runtime="runc")
    assert container.exec_run(["echo", "hi"]).output == b"hi\n"
    container.reload()
    assert container.attrs["HostConfig"]["Runtime"] == "runc"


def test_put_and_get_archive(client: docker.DockerClient) -> None:
    """CTR-30, CTR-31."""
    container = client.containers.create("busybox")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        entry = tarfile.TarInfo("folder/file")
        entry.size, entry.mode, entry.uid = 4, 0o640, 1234
        tar.addfile(entry, io.BytesIO(b"text"))
    assert container.put_archive("/tmp", out.getvalue())
    chunks, stat = container.get_archive("/tmp/folder")
    assert stat["name"] == "folder"
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as tar:
        member = tar.getmember("folder/file")
        content = tar.extractfile(member)
        assert content is not None
        assert (content.read(), member.mode, member.uid) == (b"text", 0o640, 1234)
    with pytest.raises(NotFound):
        container.get_archive("/nothing")
    with pytest.raises(NotFound):
        container.put_archive("/nothing", out.getvalue())


def test_attach_to_a_socket(client: docker.DockerClient) -> None:
    """EXE-01, EXE-03: input, half-close, output."""
    container = client.containers.create("busybox", ["cat"], stdin_open=True)
    wire = client.api.attach_socket(container.id, params={"stdin": 1, "stdout": 1, "stream": 1})
    container.start()
    wire._sock.sendall(b"hello")
    wire._sock.shutdown(1)
    assert wire._sock.recv(13, 0x100) == b"\x01\0\0\0\0\0\0\x05hello"
    assert wire._sock.recv(1) == b""
    assert container.wait()["StatusCode"] == 0
    wire._sock.close()
    wire.close()


def test_life_of_a_container(client: docker.DockerClient, engine: Engine) -> None:
    """CTR-10..15, CTR-25, CTR-26, CTR-28, CTR-29, CTR-32."""
    container = client.containers.run("busybox", ["sh", "-c", "touch /made; sleep 1000"], detach=True, init=True)
    engine.wait_for(lambda: len(container.top()["Processes"]) >= 2)
    assert container.stats(stream=False)["pids_stats"]["current"] >= 2
    container.pause()
    container.reload()
    assert container.status == "paused"
    container.unpause()
    container.rename("other")
    container.update(mem_limit="128m", memswap_limit="256m")
    container.restart(timeout=0)
    container.reload()
    assert (container.name, container.status) == ("other", "running")
    engine.wait_for(lambda: {"Path": "/made", "Kind": 1} in (container.diff() or ()))
    container.kill("TERM")
    assert container.wait()["StatusCode"] == 143
    with pytest.raises(APIError) as refused:
        container.kill()
    assert refused.value.status_code == 409
    container.remove()
    with pytest.raises(NotFound):
        container.reload()


def test_wait_with_a_condition_and_a_deadline(client: docker.DockerClient) -> None:
    """CTR-14."""
    container = client.containers.create("busybox", ["sh", "-c", "exit 8"])
    found: list[int] = []
    waiting = threading.Thread(target=lambda: found.append(container.wait(condition="next-exit")["StatusCode"]))
    waiting.start()
    while not found:
        container.start()
        waiting.join(0.2)
    assert found == [8]


def test_networks(client: docker.DockerClient) -> None:
    """NET-01..05."""
    pool = IPAMPool(subnet="10.88.0.0/24", gateway="10.88.0.1")
    network = client.networks.create("quay", driver="bridge", ipam=IPAMConfig(pool_configs=[pool]), labels={"a": "b"})
    assert [found.name for found in client.networks.list(names=["quay"])] == ["quay"]
    container = client.containers.run("busybox", ["sleep", "1000"], detach=True)
    network.connect(container, aliases=["ship"], ipv4_address="10.88.0.7")
    network.reload()
    assert [found.id for found in network.containers] == [container.id]
    assert b"10.88.0.7/24" in container.exec_run("ip addr").output
    with pytest.raises(APIError) as refused:
        network.remove()
    assert refused.value.status_code == 403
    network.disconnect(container)
    network.remove()
    with pytest.raises(NotFound):
        client.networks.get("quay")
    with pytest.raises(APIError) as refused:
        client.networks.create("bridge")
    assert refused.value.status_code in (403, 409)


def test_volumes(client: docker.DockerClient) -> None:
    """VOL."""
    volume = client.volumes.create("cargo", labels={"a": "b"})
    write, places = ["sh", "-c", "echo in > /v/f; cat /v/f"], {"cargo": {"bind": "/v", "mode": "rw"}}
    assert client.containers.run("busybox", write, volumes=places, remove=True) == b"in\n"
    assert os.path.exists(os.path.join(volume.attrs["Mountpoint"], "f"))
    user = client.containers.create("busybox", volumes=["cargo:/v"])
    with pytest.raises(APIError) as refused:
        volume.remove()
    assert refused.value.status_code == 409
    user.remove()
    volume.remove()
    assert client.volumes.list() == []


def test_images(client: docker.DockerClient) -> None:
    """IMG: load, get, tag, save, history, remove."""
    image = image_of(layer_of({"greeting": b"hello\n"}), Cmd=["cat", "/greeting"], Labels={"k": "v"})
    loaded = client.images.load(image.docker_archive("greeter:v1"))[0]
    assert loaded.id == image.image_id
    assert loaded.tags == ["greeter:v1"]
    assert loaded.tag("greeter", "v2")
    assert client.images.get("greeter:v2").labels == {"k": "v"}
    assert {tag for found in client.images.list("greeter") for tag in found.tags} == {"greeter:v1", "greeter:v2"}
    assert len(loaded.history()) == 1
    archive = io.BytesIO(b"".join(loaded.save(named=True)))
    with tarfile.open(fileobj=archive) as tar:
        assert "manifest.json" in tar.getnames()
    client.images.remove("greeter:v1")
    client.images.remove("greeter:v2")
    with pytest.raises(ImageNotFound):
        client.images.get("greeter:v1")
    with pytest.raises(APIError):
        client.images.pull("127.0.0.1:1/nothing", tag="v1")


def test_events_and_system(client: docker.DockerClient, engine: Engine) -> None:
    """EVT-01: decoded as they come."""
    stream = client.events(since=1, decode=True, filters={"container": "told"})
    client.containers.run("busybox", ["true"], name="told", remove=True)
    seen: list[str] = []
    while "destroy" not in seen:
        seen.append(next(stream)["Action"])
    stream.close()
    assert [word for word in seen if word in ("create", "start", "die", "destroy")] == [
        "create",
        "start",
        "die",
        "destroy",
    ]
    assert client.info()["Containers"] == 0
    assert client.version()["ApiVersion"]
    assert client.df()["Images"]


def test_prune(client: docker.DockerClient) -> None:
    """CTR-35, NET-06, VOL."""
    client.containers.run("busybox", ["true"], name="over", detach=True).wait()
    client.networks.create("idle")
    assert len(client.containers.prune()["ContainersDeleted"]) == 1
    assert client.networks.prune()["NetworksDeleted"] == ["idle"]
    assert client.volumes.prune()["SpaceReclaimed"] == 0
