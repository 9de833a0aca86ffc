"""`docker commit`: images of what containers wrote."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import threading
import time
from urllib.parse import urlencode

import pytest

from tests.support.engine import Engine

pytestmark = pytest.mark.root


@pytest.fixture(autouse=True)
def _no_images_left(engine: Engine) -> None:
    """Images of an earlier test would share layers with those of the next one."""
    for image in engine.json("/images/json"):
        if "busybox:latest" not in image["RepoTags"]:
            engine.request("DELETE", f"/images/{image['Id']}?force=1")


def commit(engine: Engine, container: str, *, body: object = None, **query: object) -> tuple[int, dict[str, str]]:
    words = urlencode({"container": container, **query}, doseq=True)
    status, answer = engine.request("POST", f"/commit?{words}", body)
    return status, json.loads(answer)


def actions(engine: Engine, container: str) -> list[str]:
    """What `/events` tells of one container so far."""
    return [message["Action"] for message in messages(engine, container)]


def messages(engine: Engine, container: str) -> list[dict[str, object]]:
    filters = json.dumps({"container": [container_id(engine, container)]})
    query = urlencode({"since": 1, "until": time.time(), "filters": filters})
    return [json.loads(line) for line in engine.request("GET", f"/events?{query}")[1].splitlines()]


def container_id(engine: Engine, name: str) -> str:
    return str(engine.json(f"/containers/{name}/json")["Id"])


def test_what_a_container_wrote_is_in_its_image(engine: Engine) -> None:
    """CTR-34: new, changed and deleted files, emptied directories, hard links, modes and attributes."""
    script = (
        "echo new > /new; echo changed > /etc/passwd; rm /etc/group; rm -r /tmp; mkdir /tmp; echo in > /tmp/fresh;"
        "ln /new /second; ln -s /new /link; chown 1000:2000 /new; chmod 4750 /new; mkdir -p /deep/er; touch /deep/er/x"
    )
    engine.cli("run", "--name", "writer", "busybox", "sh", "-c", script)
    image = engine.out("commit", "-m", "some words", "-a", "Ann <ann@example.org>", "writer", "written:v1")
    assert image.startswith("sha256:")
    show = (
        "cat /new /etc/passwd /tmp/fresh; test ! -e /etc/group && ls /tmp; "
        "stat -c '%a %u %g %h' /new; readlink /link; ls /deep/er"
    )
    told = engine.out("run", "--rm", "written:v1", "sh", "-c", show).splitlines()
    assert told == ["new", "changed", "in", "fresh", "4750 1000 2000 2", "/new", "x"]
    inspected = engine.json("/images/written:v1/json")
    below = engine.json("/images/busybox/json")
    assert inspected["Id"] == image
    assert inspected["RootFS"]["Layers"][:-1] == below["RootFS"]["Layers"]
    assert (inspected["Author"], inspected["Comment"]) == ("Ann <ann@example.org>", "some words")
    assert inspected["Architecture"] == below["Architecture"]
    newest = engine.json("/images/written:v1/history")[0]
    assert (newest["Comment"], newest["Tags"], newest["Size"] > 0) == ("some words", ["written:v1"], True)
    assert newest["CreatedBy"] == f"sh -c {script}"


def test_the_layer_is_what_its_digests_say(engine: Engine) -> None:
    """CTR-34, IMG-14: `docker save` of the result has whiteouts and opaque marks, and loads again by the same id."""
    engine.cli("run", "--name", "first", "busybox", "sh", "-c", "mkdir /home; touch /home/old")
    engine.cli("commit", "first", "first")
    engine.cli("run", "--name", "writer", "first", "sh", "-c", "rm /etc/group; rm -r /home; mkdir /home; touch /home/x")
    image = engine.out("commit", "writer", "written")
    archive = engine.root / "written.tar"
    engine.cli("save", "-o", str(archive), "written")
    with tarfile.open(archive) as saved:
        manifest = json.load(saved.extractfile("manifest.json"))[0]  # type: ignore[arg-type]  # it is there
        config = json.load(saved.extractfile(manifest["Config"]))  # type: ignore[arg-type]
        body = saved.extractfile(manifest["Layers"][-1]).read()  # type: ignore[union-attr]
    assert config["rootfs"]["diff_ids"][-1] == "sha256:" + hashlib.sha256(body).hexdigest()
    with tarfile.open(fileobj=io.BytesIO(body)) as layer:
        names = layer.getnames()
    assert {"etc/.wh.group", "home", "home/.wh..wh..opq", "home/x"} <= set(names)
    assert not any(name.startswith(("proc", "sys", "dev")) for name in names)
    engine.cli("rm", "writer")
    engine.cli("rmi", "written")
    engine.cli("load", "-i", str(archive))
    assert engine.out("image", "inspect", "-f", "{{.Id}}", "written") == image
    assert engine.out("run", "--rm", "written", "ls", "/home") == "x"


def test_a_running_container_is_frozen_meanwhile_and_goes_on(engine: Engine) -> None:
    """CTR-34, EVT-03: pause, commit with attributes, unpause; a paused one stays paused; pause=0 freezes nothing."""
    engine.cli("run", "-d", "--name", "writer", "busybox", "sh", "-c", "echo one > /file; exec sleep 1000")
    engine.wait_for(lambda: engine.cli("exec", "writer", "test", "-s", "/file", check=False).returncode == 0)
    image = engine.out("commit", "-m", "why", "writer", "written:v2")
    assert engine.json("/containers/writer/json")["State"]["Status"] == "running"
    told = [message for message in messages(engine, "writer") if message["Action"] in ("pause", "commit", "unpause")]
    assert [message["Action"] for message in told] == ["pause", "commit", "unpause"]
    attributes = told[1]["Actor"]["Attributes"]  # type: ignore[index]  # JSON
    assert (attributes["comment"], attributes["imageID"], attributes["imageRef"]) == ("why", image, "written:v2")
    engine.cli("pause", "writer")
    engine.cli("commit", "writer")
    assert engine.json("/containers/writer/json")["State"]["Status"] == "paused"
    engine.cli("unpause", "writer")
    before = actions(engine, "writer").count("pause")
    assert commit(engine, "writer", pause=0)[0] == 201
    assert actions(engine, "writer").count("pause") == before
    assert engine.out("run", "--rm", "written:v2", "cat", "/file") == "one"


def test_changes_are_dockerfile_instructions(engine: Engine) -> None:
    """CTR-34: every instruction that is allowed, over the container's own configuration."""
    engine.cli("create", "--name", "writer", "-e", "A=1", "-e", "B=2", "-l", "kept=yes", "busybox", "echo", "hello")
    changes = [
        'CMD ["echo", "changed"]', "ENV A=one C=$B", "EXPOSE 80 53/udp", 'LABEL told="by change"', "ONBUILD RUN true",
        "USER sailor", "VOLUME /data", "WORKDIR /home", "HEALTHCHECK --retries=2 CMD true", "STOPSIGNAL SIGINT",
    ]  # fmt: skip
    status, answer = commit(engine, "writer", repo="changed", tag="now", changes=changes)
    assert status == 201, answer
    config = engine.json("/images/changed:now/json")["Config"]
    assert config["Cmd"] == ["echo", "changed"]
    assert {"A=one", "B=2", "C=2"} <= set(config["Env"])
    assert set(config["ExposedPorts"]) == {"80/tcp", "53/udp"}
    assert config["Labels"] == {"kept": "yes", "told": "by change"}
    assert config["OnBuild"] == ["RUN true"]
    assert (config["User"], config["WorkingDir"], config["StopSignal"]) == ("sailor", "/home", "SIGINT")
    assert config["Volumes"] == {"/data": {}}
    assert (config["Healthcheck"]["Test"], config["Healthcheck"]["Retries"]) == (["CMD-SHELL", "true"], 2)
    status, answer = commit(engine, "writer", changes="ENTRYPOINT [\"echo\", \"in front\"]", repo="front")
    assert engine.out("run", "--rm", "front", "behind") == "in front behind"


def test_a_body_is_the_configuration_to_begin_with(engine: Engine) -> None:
    """CTR-34: what it does not say comes from the container."""
    engine.cli("create", "--name", "writer", "-e", "A=1", "-w", "/tmp", "busybox", "echo", "hello")
    status, answer = commit(engine, "writer", body={"Cmd": ["echo", "from the body"], "Env": ["B=2"]})
    assert status == 201, answer
    config = engine.json(f"/images/{answer['Id']}/json")["Config"]
    assert config["Cmd"] == ["echo", "from the body"]
    assert {"A=1", "B=2"} <= set(config["Env"])
    assert config["WorkingDir"] == "/tmp"


def test_a_container_that_wrote_nothing_adds_no_layer(engine: Engine) -> None:
    """CTR-34: only a step of the history, as moby does with an empty layer."""
    engine.cli("create", "--name", "silent", "busybox", "true")
    image = engine.out("commit", "silent", "nothing")
    assert engine.json("/images/nothing/json")["RootFS"] == engine.json("/images/busybox/json")["RootFS"]
    assert engine.json("/images/nothing/history")[0]["Size"] == 0
    assert image != engine.json("/images/busybox/json")["Id"]
    engine.cli("rm", "silent")
    engine.cli("rmi", "nothing")
    assert engine.out("run", "--rm", "busybox", "echo", "still here") == "still here"


def test_what_cannot_be_committed_leaves_nothing(engine: Engine) -> None:
    """CTR-34: unknown containers 404, bad instructions and names 400; no image, no blob, and nothing stays frozen."""
    engine.cli("run", "-d", "--name", "writer", "busybox", "sleep", "1000")
    before = sorted(os.listdir(engine.data_root / "content/sha256"))
    assert commit(engine, "nobody")[0] == 404
    assert commit(engine, "writer", changes="RUN true") == (400, {"message": "RUN is not a valid change command"})
    assert commit(engine, "writer", repo="Bad Name")[0] == 400
    assert commit(engine, "writer", repo="good", tag="bad tag") == (400, {"message": "invalid tag format"})
    status, body = engine.request("POST", "/commit?container=writer", b"{}", **{"Content-Type": "text/plain"})
    assert status == 400, body
    assert sorted(os.listdir(engine.data_root / "content/sha256")) == before
    assert engine.json("/containers/writer/json")["State"]["Status"] == "running"
    assert "commit" not in actions(engine, "writer")


def test_commits_side_by_side_thaw_the_container_once_all_are_done(engine: Engine) -> None:
    """CTR-34: each has an image, and the container runs in the end."""
    engine.cli("run", "-d", "--name", "writer", "busybox", "sh", "-c", "echo x > /x; exec sleep 1000")
    engine.wait_for(lambda: engine.cli("exec", "writer", "test", "-s", "/x", check=False).returncode == 0)
    answers: list[tuple[int, dict[str, str]]] = []
    threads = [
        threading.Thread(target=lambda n=n: answers.append(commit(engine, "writer", repo=f"copy{n}"))) for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [status for status, _ in answers] == [201] * 4
    engine.wait_for(lambda: engine.json("/containers/writer/json")["State"]["Status"] == "running")
    told = [action for action in actions(engine, "writer") if action in ("pause", "unpause", "commit")]
    assert told.count("commit") == 4
    assert told.count("pause") == told.count("unpause") >= 1
