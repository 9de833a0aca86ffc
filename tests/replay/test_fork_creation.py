"""WIN-08: planning with `replay fork`: an upgrade, another network, a drain; and what an engine would refuse."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from engine.aggregates.decider import Cause
from tests.replay.conftest import Replay
from tests.simulation.lives import CONFIG, image_of
from tests.simulation.test_mended import World as Engine
from tests.simulation.test_mended import play
from tests.support.images import digest

V2 = json.dumps(
    {
        "architecture": "amd64",
        "os": "linux",
        "config": {
            "Cmd": ["serve"],
            "Env": ["TOKEN=hunter2"],
            "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
            "Volumes": {"/data": {}},
            "StopSignal": "SIGINT",
            "Labels": {"version": "2"},
        },
        "rootfs": {"type": "layers", "diff_ids": []},
    }
).encode()
UPGRADE = ("stop web", "rm web", "run -d --name web -p 80:80 --network front --restart always -v site:/srv app:v2")


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`web` on network front has port 80 and volume site; `db` is on the default bridge. The images' configurations lie
    beside the log."""
    directory = tmp_path_factory.mktemp("upgrade")

    async def story(engine: Engine) -> None:
        await engine.ask("POST", "/networks/create", {"Name": "front"}, status=201)
        assert engine.lives.engine is not None
        hands = engine.lives.engine.hands
        added = image_of(V2, "docker.io/library/app:v2", hands.clock.now_ns())
        await hands.application.execute(*added, cause=Cause(actor="uid=0", correlation="load"))
        bindings = {"80/tcp": [{"HostPort": "80"}]}
        await engine.create("web", NetworkMode="front", PortBindings=bindings, Binds=["site:/srv"])
        await engine.create("db")
        for name in ("web", "db"):
            await engine.ask("POST", f"/containers/{name}/start", status=204)
        await engine.at_rest()

    play(directory, story)
    (log,) = directory.glob("*/events.db")
    blobs = log.parent / "content" / "sha256"
    blobs.mkdir(parents=True)
    for config in (CONFIG, V2):
        (blobs / digest(config).partition(":")[2]).write_bytes(config)
    return log.parent


@pytest.fixture
def here(data_root: Path, capsys: pytest.CaptureFixture[str]) -> Replay:
    """Somebody who asks in the data root."""
    return Replay(data_root / "events.db", {}, capsys)


@pytest.fixture
def copied(data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Replay:
    """Somebody who has a copy of the log and nothing else."""
    shutil.copyfile(data_root / "events.db", tmp_path / "events.db")
    return Replay(tmp_path / "events.db", {}, capsys)


def what_if(*wishes: str) -> tuple[str, ...]:
    return "fork", *(word for wish in wishes for word in ("--what-if", wish))


def refusals(answer: dict[str, Any]) -> dict[str, str]:
    return {each["wish"]: each["message"] for each in answer["refused"]}


def said(answer: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """What the events of a name say that only the changed history has."""
    return [each["data"] for each in answer["would"] if each["name"] == name]


def only(answer: dict[str, Any], name: str) -> dict[str, Any]:
    (event,) = said(answer, name)
    return event


# -- what would be -----------------------------------------------------------------------------------------------------


def test_an_upgrade_is_planned_with_addresses_ports_and_volumes(here: Replay) -> None:
    answer = here.json(*what_if(*UPGRADE))
    assert answer["refused"] == []
    created, started = only(answer, "container.created"), only(answer, "container.started")
    assert created["config"]["Cmd"] == ["serve"]
    assert created["config"]["Labels"] == {"version": "2"}
    assert [(mount["name"], mount["destination"]) for mount in created["mounts"]][0] == ("site", "/srv")
    assert created["mounts"][1]["anonymous"], "the image's own volume"
    assert [(port["host_port"], port["container_port"]) for port in started["ports"]] == [(80, 80), (80, 80)]
    assert started["endpoints"][0]["ipv4_address"].startswith("172.18.0.")
    webs = [each["kind"] for each in answer["changes"] if each["label"].startswith("container web")]
    assert sorted(webs) == ["added", "removed"]
    told = here(*what_if(*UPGRADE))
    assert "created as 'web' from app:v2" in told
    assert "started, address 172.18.0.3, port 80 to 80/tcp  " in told, "a port of both families is told once"


def test_the_same_question_has_the_same_answer(here: Replay) -> None:
    at = here.lines("log")[-1]["position"]
    wishes = ("fork", f"@{at}", *what_if("run app:v2", "run app:v2")[1:])
    first, second = (here.json(*wishes) for _ in range(2))
    assert first == second
    names = [each["name"] for each in said(first, "container.created")]
    assert len(set(names)) == 2
    assert all("_" in name for name in names), "an adjective and a surname"


def test_a_signal_of_the_image_ends_what_was_run_from_it(here: Replay) -> None:
    answer = here.json(*what_if("run -d --name app app:v2", "stop app"))
    assert only(answer, "container.stop_requested")["signal"] == 2
    assert only(answer, "container.exited")["exit_code"] == 130


def test_a_drain_stops_all_and_gives_everything_back(here: Replay) -> None:
    answer = here.json(*what_if("stop web db"))
    assert answer["refused"] == []
    assert len(said(answer, "container.exited")) == 2
    assert len(said(answer, "network.endpoint_released")) == 2
    assert len(said(answer, "ports.released")) == 1
    told = here(*what_if("stop web db", "network rm front"))
    assert "What would have been refused" not in told
    assert "- network front" in told


def test_of_several_objects_those_that_can_be_are_changed(here: Replay) -> None:
    answer = here.json(*what_if("stop db", "rm web db"))
    (wish,) = refusals(answer)
    assert wish == "rm web"
    assert only(answer, "container.removed") is not None


def test_ports_and_mounts_are_read_as_the_cli_reads_them(here: Replay) -> None:
    words = (
        "create --name all -p 8080:80 -p 127.0.0.1:5353:53/udp -p 9000-9001:90-91 -p [::1]:7000-7009:70 -p 71 "
        "-p target=72,published=7200 -v /etc/hosts:/hosts:ro -v /scratch -v named:/named "
        "--mount type=bind,source=/tmp,target=/t,readonly --mount src=other,dst=/o -m 64m --memory-swap -1 --cpus 1.5 "
        "--pids-limit 7 -l a=b -l c -w /w -u 1:2 --hostname box --stop-timeout 3 --entrypoint /x app:v2 sh -c 'a b'"
    )
    answer = here.json(*what_if(words))
    assert answer["refused"] == []
    created = only(answer, "container.created")
    host, config = created["host"], created["config"]
    bindings = {
        port: [(each.get("HostIp", ""), each.get("HostPort", "")) for each in bound]
        for port, bound in host["PortBindings"].items()
    }
    assert bindings == {
        "80/tcp": [("", "8080")],
        "53/udp": [("127.0.0.1", "5353")],
        "90/tcp": [("", "9000")],
        "91/tcp": [("", "9001")],
        "70/tcp": [("::1", "7000-7009")],
        "71/tcp": [("", "")],
        "72/tcp": [("", "7200")],
    }
    mounts = {each["destination"]: (each["type"], each["name"], each["rw"]) for each in created["mounts"]}
    assert mounts["/hosts"] == ("bind", "", False)
    assert mounts["/t"] == ("bind", "", False)
    assert mounts["/named"] == ("volume", "named", True)
    assert mounts["/o"] == ("volume", "other", True)
    assert mounts["/scratch"][0] == mounts["/data"][0] == "volume"
    assert (host["Memory"], host["MemorySwap"], host["NanoCpus"], host["PidsLimit"]) == (64 << 20, -1, 1_500_000_000, 7)
    assert (config["Entrypoint"], config["Cmd"]) == (["/x"], ["sh", "-c", "a b"])
    assert config["Labels"] == {"version": "2", "a": "b", "c": ""}
    assert (config["WorkingDir"], config["User"], config["Hostname"]) == ("/w", "1:2", "box")


def test_a_container_is_on_several_networks_or_in_anothers(here: Replay) -> None:
    answer = here.json(
        *what_if(
            "network create --subnet 10.9.0.0/24 --gateway 10.9.0.254 --internal --label tier=back back",
            "run -d --name both --network front --network name=back,alias=api,ip=10.9.0.7 app:v2",
            "run -d --name beside --network container:both app:v2",
            "run -d --name alone --network none app:v2",
            "run -d --name named --network back --network-alias n --link both:b app:v2",
        )
    )
    assert answer["refused"] == []
    settings = only(answer, "network.create_requested")["settings"]
    assert settings["pools"] == [{"subnet": "10.9.0.0/24", "gateway": "10.9.0.254", "ip_range": "", "auxiliary": {}}]
    both, beside, alone, named = said(answer, "container.started")
    assert {each["ipv4_address"] for each in both["endpoints"]} == {"172.18.0.3", "10.9.0.7"}
    assert not beside.get("endpoints")
    assert [each["ipv4_address"] for each in alone["endpoints"]] == [""]
    assert [each["ipv4_address"] for each in named["endpoints"]] == ["10.9.0.8"]


def test_a_network_without_a_subnet_gets_the_next_free_one(here: Replay) -> None:
    answer = here.json(*what_if("network create one", "network rm front", "network create two"))
    pools = [each["settings"]["pools"][0]["subnet"] for each in said(answer, "network.create_requested")]
    assert pools == ["172.19.0.0/16", "172.20.0.0/16"]
    assert list(refusals(answer)) == ["network rm front"]


def test_a_running_container_joins_another_network_by_an_address_and_a_name(here: Replay) -> None:
    answer = here.json(*what_if("network connect --ip 172.18.0.77 --alias data front db"))
    assert answer["refused"] == []
    endpoint = only(answer, "container.connected")["endpoint"]
    assert endpoint["ipv4_address"] == "172.18.0.77"
    assert "data" in endpoint["dns_names"]


def test_an_image_gets_another_name_and_is_run_by_it(here: Replay) -> None:
    answer = here.json(*what_if("tag app:v2 app:prod", "run -d app:prod"))
    assert answer["refused"] == []
    assert only(answer, "container.created")["image_id"] == digest(V2)


def test_an_image_that_nothing_uses_goes_with_what_only_it_has(here: Replay) -> None:
    answer = here.json(*what_if("rm -f db web", "rmi app:v2", "rmi busybox", "run -d app:v2"))
    assert refusals(answer) == {"run -d app:v2": "No such image: app:v2"}
    assert [each["blobs"] for each in said(answer, "image.removed")] == [[digest(V2)], [digest(CONFIG)]]
    assert [each["label"] for each in answer["changes"] if each["stream"].startswith("image:")] == [
        f"image {name} ({digest(config)[7:19]})"
        for config, name in sorted(((V2, "app:v2"), (CONFIG, "busybox:latest")), key=lambda pair: digest(pair[0]))
    ]


# -- what would not ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ("run -d --name web app:v2", 'Conflict. The container name "/web" is already in use by container'),
        ("run -d --name late nope", "No such image: nope:latest"),
        ("create --name w! app:v2", "Invalid container name (w!), only [a-zA-Z0-9]"),
        ("create -m 4m app:v2", "Minimum memory limit allowed is 6MB"),
        ("create --rm --restart always app:v2", "can't create 'AutoRemove' container with restart policy"),
        ("create -p 1.2.3:80:80 app:v2", 'invalid IP address in port mapping: "1.2.3"'),
        ("create -v site:relative app:v2", "invalid volume specification: 'site:relative'"),
        ("create --ip 172.17.0.9 app:v2", "user-specified IP address is supported on user-defined networks only"),
        ("create --network container:nobody app:v2", "No such container: nobody"),
        ("create --stop-signal NONE app:v2", "invalid signal: NONE"),
        ("network create front", "network with name front already exists"),
        ("network create bridge", "operation is not permitted on predefined bridge network "),
        ("network create --subnet 172.18.1.0/24 back", "Pool overlaps with other one on this address space"),
        ("network create --subnet 10.9.0.1/24 back", "invalid subnet 10.9.0.1/24: it should be 10.9.0.0/24"),
        ("network create --ipv6 back", "give a --subnet"),
        ("volume create v", "volume name is too short"),
        ("network connect --ip 172.17.0.9 bridge web", "user specified IP address is supported on user defined"),
        ("network connect --alias a bridge web", "network-scoped alias is supported only for containers in user"),
        ("network connect --ip 10.0.0.9 front db", "no configured subnet or ip-range contain the IP address 10.0.0.9"),
        ("network connect host web", "container cannot be disconnected from host network or connected"),
        ("tag nope app", "No such image: nope:latest"),
        ("rmi busybox", 'conflict: unable to remove repository reference "busybox" (must force) - container'),
        ("rmi nope", "No such image: nope:latest"),
    ],
)
def test_what_the_engine_would_refuse_is_refused_in_its_words_and_makes_nothing(
    here: Replay, wish: str, message: str
) -> None:
    answer = here.json(*what_if(wish))
    assert [key for key in ("would", "would_not", "changes") if answer[key]] == []
    assert message in refusals(answer)[wish]


def test_a_port_that_is_taken_refuses_the_start_and_leaves_the_container_as_docker_does(here: Replay) -> None:
    wish = "run -d --name web2 -p 80:80 app:v2"
    answer = here.json(*what_if(wish))
    assert "Bind for 0.0.0.0:80 failed: port is already allocated" in refusals(answer)[wish]
    assert only(answer, "container.start_failed")["exit_code"] == 128
    assert said(answer, "network.endpoint_allocated") == said(answer, "ports.reserved") == []
    assert [(each["kind"], each["stream"].partition(":")[0]) for each in answer["changes"]] == [
        ("added", "container"),
        ("added", "volume"),
    ]
    gone = here.json(*what_if(wish.replace("-d", "-d --rm")))
    assert gone["changes"] == []
    assert len(gone["refused"]) == 1
    again = here.json(*what_if("create --name late -p 80:80 app:v2", "start late"))
    assert "port is already allocated" in refusals(again)["start late"]
    again = here.json(*what_if("create --name late -p 80:80 app:v2", "restart late"))
    assert refusals(again)["restart late"].startswith("Cannot restart container late: Bind for 0.0.0.0:80 failed")


def test_the_network_of_a_container_that_does_not_run_is_not_to_be_had(here: Replay) -> None:
    wish = "run -d --network container:web app:v2"
    answer = here.json(*what_if("stop web", wish))
    words = "cannot join network namespace of a non running container: container web is exited"
    assert refusals(answer) == {wish: words}


@pytest.mark.parametrize(
    ("wish", "complaint"),
    [
        ("pull app:v3", "pull: what a registry would answer is not in the log"),
        ("build .", "build: what a build would make is not in the log"),
        ("run --privileged app:v2", "run: unrecognized arguments: --privileged"),
        ("run --mem 64m app:v2", "unrecognized arguments: --mem"),
        ("run", "the following arguments are required: image"),
        ("run -p x:80 app:v2", "run: invalid hostPort: x"),
        ("run -p 8080: app:v2", "run: no port specified: 8080:<empty>"),
        ("run -p 80-82:90-91 app:v2", "invalid ranges specified for container and host Ports"),
        ("run --network front --network none app:v2", "cannot attach both user-defined and non-user-defined"),
        ("run --network front --network front app:v2", "network 'front' is specified multiple times"),
        ("run --network name=front,link-local-ip=169.254.1.1 app:v2", "'link-local-ip=169.254.1.1' is not known here"),
        ("run --network-alias a app:v2", "network-scoped aliases are only supported for user-defined networks"),
        ("run --mount type=volume,dst=/x,volume-label=a app:v2", "'volume-label=a' is not known here"),
        ("run -v ./here:/x app:v2", "a path of the host is told from its root on"),
        ("network create --gateway 10.0.0.1 back", "every ip-range or gateway must have a corresponding subnet"),
        ("network create --subnet 10.0.0.0/24 --gateway 10.0.1.1 back", "no matching subnet for gateway 10.0.1.1"),
    ],
)
def test_what_the_cli_would_not_send_or_nobody_can_answer_is_said(here: Replay, wish: str, complaint: str) -> None:
    assert here(*what_if(wish)) == ""
    assert here.code == 2
    assert complaint in here.complaint


# -- what is not known -------------------------------------------------------------------------------------------------


def test_secrets_are_neither_shown_nor_kept(here: Replay) -> None:
    wish = "run -d --name web -e TOKEN=hunter3 --env=OTHER=hunter4 app:v2"
    for question in (what_if(wish), what_if("rm -f web", wish)):
        for told in (here(*question), here(*question, "--json")):
            assert here.code == 0
            assert "hunter" not in told, "of the command's, and of the image's"
    assert list(refusals(here.json(*what_if(wish)))) == ["run -d --name web -e TOKEN --env=OTHER app:v2"]


def test_without_the_images_configuration_the_answer_says_so(copied: Replay) -> None:
    answer = copied.json(*what_if("run -d --name app -p 8080:80 app:v2"))
    assert answer["refused"] == []
    (web,) = (each for each in copied.json("at", "now", "ps") if each["name"] == "web")
    volume = only(copied.json(*what_if("create -v site:/srv app:v2")), "container.created")["mounts"][0]
    assert volume["source"] == web["mounts"][0]["source"], "where the engine has it, not where the copy lies"
    (note,) = answer["notes"]
    assert note.startswith("The configuration of app:v2 does not lie beside this log")
    assert "mounts" not in only(answer, "container.created")
    assert note in copied(*what_if("run -d --name app -p 8080:80 app:v2"))
    (refusal,) = refusals(copied.json(*what_if("run -d -P app:v2"))).values()
    assert refusal.startswith("-P app:v2: which ports the image exposes")


def test_with_the_images_configuration_every_exposed_port_is_published(here: Replay) -> None:
    answer = here.json(*what_if("run -d -P app:v2"))
    assert answer["notes"] == []
    ports = {(port["container_port"], port["protocol"]) for port in only(answer, "container.started")["ports"]}
    assert ports == {(80, "tcp"), (53, "udp")}


def test_a_configuration_that_is_not_what_it_was_is_not_believed(data_root: Path, copied: Replay) -> None:
    blobs = copied.path.parent / "content" / "sha256"
    blobs.mkdir(parents=True)
    (blobs / digest(V2).partition(":")[2]).write_bytes(V2.replace(b"serve", b"steal"))
    assert copied.json(*what_if("run -d app:v2"))["notes"]


def test_what_an_engine_would_warn_of_is_noted(here: Replay) -> None:
    answer = here.json(*what_if("run -d --network host -p 81:81 app:v2"))
    assert answer["notes"] == ["Published ports are discarded when using host network mode"]


def test_the_data_root_is_left_as_it_is(here: Replay, data_root: Path) -> None:
    def everything() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in data_root.rglob("*") if path.is_file()}

    before = everything()
    here(*what_if(*UPGRADE))
    assert everything() == before


def test_history_goes_on_over_the_new_container(here: Replay) -> None:
    """What people asked for later is asked for again, and may be refused because of it."""
    created = next(each for each in here.lines("log") if each["name"] == "container.created")
    answer = here.json("fork", f"@{created['position'] - 1}", *what_if("run -d --name db app:v2")[1:], "--until", "now")
    (refused,) = [each for each in answer["refused"] if each["recorded"]["name"] == "container.created"]
    assert refused["message"].startswith('Conflict. The container name "/db" is already in use')
