"""`ishmaeld doctor`: damage done by hand is found and mended, whether the engine runs or not (WIN-05)."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.support.audit import events_of
from tests.support.engine import Engine, running_engine
from tests.support.outside import fetch_locally

pytestmark = pytest.mark.root
STRAY_BRIDGE = "br-0123456789ab"
PAGE = "page of web\n"
SERVE = f"mkdir /www; echo {PAGE.strip()} > /www/index.html; httpd -f -h /www"


def doctor(engine: Engine, *options: str) -> tuple[int, list[dict[str, Any]]]:
    """Exit status and outcomes."""
    command = [
        "nsenter", f"--net=/run/netns/{engine.name}", sys.executable, "-m", "engine", "doctor", "--json", *options,
        "-H", engine.host, "--data-root", str(engine.root / "data"), "--exec-root", str(engine.root / "exec"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, json.loads(done.stdout)


def found(engine: Engine) -> set[tuple[str, str]]:
    """(kind, deviation) of what differs now."""
    status, outcomes = doctor(engine)
    assert status == (1 if outcomes else 0)
    return {(each["difference"]["kind"], each["difference"]["deviation"]) for each in outcomes}


def mend(engine: Engine) -> None:
    """Repair, and see that each repair is an event and nothing is left."""
    before = len(mended(engine))
    status, outcomes = doctor(engine, "--repair")
    assert (status, {each["error"] for each in outcomes}) == (0, {""}), outcomes
    assert len(mended(engine)) == before + len(outcomes)
    assert found(engine) == set()


def mended(engine: Engine) -> list[str]:
    return [each.event.difference.key for each in events_of(engine) if each.event.NAME == "drift.mended"]


def serve(engine: Engine) -> None:
    engine.cli("run", "-d", "--name", "web", "-p", "8080:80", "busybox", "sh", "-c", SERVE)
    engine.wait_for(lambda: fetch_locally(engine, "http://127.0.0.1:8080/") == PAGE)


def veth(engine: Engine) -> str:
    endpoint = engine.json("/containers/web/json")["NetworkSettings"]["Networks"]["bridge"]["EndpointID"]
    return f"veth{endpoint[:7]}"


def nft(engine: Engine, command: str) -> None:
    engine.in_namespace("nft", command)


def test_nothing_differs_while_containers_run(engine: Engine) -> None:
    """WIN-05."""
    serve(engine)
    engine.cli("network", "create", "--internal", "yard")
    engine.cli("volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "scratch")
    engine.cli("run", "-d", "--network", "yard", "-v", "scratch:/s", "busybox", "sleep", "1000")
    assert found(engine) == set()


def test_a_removed_veth_is_made_again(engine: Engine) -> None:
    """WIN-05: the container is reached again, without a restart."""
    serve(engine)
    pid = engine.json("/containers/web/json")["State"]["Pid"]
    engine.in_namespace("ip", "link", "delete", veth(engine))
    assert fetch_locally(engine, "http://127.0.0.1:8080/") == ""
    assert found(engine) == {("veth", "missing")}
    mend(engine)
    assert fetch_locally(engine, "http://127.0.0.1:8080/") == PAGE
    assert engine.json("/containers/web/json")["State"]["Pid"] == pid


def test_a_veth_that_left_its_bridge_is_brought_back(engine: Engine) -> None:
    """WIN-05."""
    serve(engine)
    engine.in_namespace("ip", "link", "set", veth(engine), "nomaster")
    assert found(engine) == {("veth", "wrong")}
    mend(engine)
    assert fetch_locally(engine, "http://127.0.0.1:8080/") == PAGE


def test_a_removed_bridge_is_made_again_with_its_containers(engine: Engine) -> None:
    """WIN-05."""
    serve(engine)
    engine.in_namespace("ip", "link", "delete", "docker0")
    assert found(engine) == {("bridge", "missing"), ("veth", "wrong")}
    mend(engine)
    assert fetch_locally(engine, "http://127.0.0.1:8080/") == PAGE


def test_a_bridge_without_its_address_gets_it_again(engine: Engine) -> None:
    """WIN-05."""
    engine.in_namespace("ip", "addr", "flush", "dev", "docker0")
    assert found(engine) == {("bridge address", "missing")}
    mend(engine)


def test_elements_and_rules_of_the_firewall_are_put_right(engine: Engine) -> None:
    """WIN-05: a deleted element, a deleted rule and one too many; a whole table."""
    serve(engine)
    nft(engine, 'delete element ip ishmael bridges { "docker0" }')
    nft(engine, 'add element ip ishmael internal { "docker0" }')
    nft(engine, "insert rule ip ishmael forward drop")
    assert found(engine) == {("firewall element", "missing"), ("firewall element", "stray"), ("firewall rule", "stray")}
    mend(engine)
    nft(engine, "flush chain ip ishmael publish")
    nft(engine, "add chain ip ishmael mine")
    assert found(engine) == {("firewall rule", "missing"), ("firewall part", "stray")}
    mend(engine)
    nft(engine, "delete table ip ishmael")
    assert ("firewall table", "missing") in found(engine)
    mend(engine)
    assert fetch_locally(engine, "http://127.0.0.1:8080/") == PAGE


def test_published_ports_lead_where_the_log_says(engine: Engine) -> None:
    """WIN-05: one that is gone, one that leads to nobody, one that leads elsewhere (moby#32048)."""
    serve(engine)
    nft(engine, "delete element ip ishmael published_any { tcp . 8080 }")
    nft(engine, "add element ip ishmael published_any { tcp . 8099 : 172.17.0.99 . 80 }")
    assert found(engine) == {("published port", "missing"), ("published port", "stray")}
    mend(engine)
    nft(engine, "delete element ip ishmael published_any { tcp . 8080 }")
    nft(engine, "add element ip ishmael published_any { tcp . 8080 : 172.17.0.99 . 80 }")
    assert found(engine) == {("published port", "wrong")}
    mend(engine)
    assert fetch_locally(engine, "http://127.0.0.1:8080/") == PAGE


def test_stray_links_go_and_what_may_be_somebody_elses_stays(engine: Engine) -> None:
    """WIN-05."""
    engine.in_namespace("ip", "link", "add", STRAY_BRIDGE, "type", "bridge")
    engine.in_namespace("ip", "link", "add", "veth0123456", "type", "veth", "peer", "name", "peer0")
    engine.in_namespace("ip", "link", "set", "veth0123456", "master", "docker0")
    assert found(engine) == {("bridge", "stray"), ("veth", "stray")}
    mend(engine)
    engine.in_namespace("ip", "link", "add", STRAY_BRIDGE, "type", "bridge")
    engine.in_namespace("ip", "addr", "add", "192.0.2.1/24", "dev", STRAY_BRIDGE)
    status, outcomes = doctor(engine, "--repair")
    assert (status, [each["difference"]["subject"] for each in outcomes]) == (1, [STRAY_BRIDGE])
    assert "may be somebody else's" in outcomes[0]["error"]
    engine.in_namespace("ip", "link", "delete", STRAY_BRIDGE)
    assert found(engine) == set()


def test_stray_mounts_and_directories(engine: Engine) -> None:
    """WIN-05: a mount inside of a volume is undone; a directory that may be somebody's data is told and kept."""
    engine.cli("volume", "create", "data")
    place = engine.data_root / "volumes" / "data" / "_data"
    subprocess.run(["mount", "-t", "tmpfs", "stray", place], check=True)
    leftover = engine.data_root / "rootfs" / ("a" * 64)
    leftover.mkdir(parents=True)
    assert found(engine) == {("mount", "stray"), ("read-write layer", "stray")}
    mend(engine)
    assert not leftover.exists()
    stranger = engine.data_root / "volumes" / "stranger" / "_data"
    stranger.mkdir(parents=True)
    status, outcomes = doctor(engine, "--repair")
    assert (status, outcomes[0]["difference"]["subject"], stranger.exists()) == (1, "stranger", True)
    stranger.rmdir()
    stranger.parent.rmdir()


def test_an_engine_that_does_not_run_is_examined_and_mended() -> None:
    """WIN-05: a look changes nothing; the repair is the recovery, which every start does by itself."""
    with running_engine() as engine:
        serve(engine)
        engine.stop()
        assert found(engine) == set()
        engine.in_namespace("ip", "link", "delete", veth_of_log(engine))
        nft(engine, 'delete element ip ishmael bridges { "docker0" }')
        nft(engine, "insert rule ip ishmael forward drop")
        engine.in_namespace("ip", "link", "add", STRAY_BRIDGE, "type", "bridge")
        damage = {
            ("veth", "missing"),
            ("firewall element", "missing"),
            ("firewall rule", "stray"),
            ("bridge", "stray"),
        }
        assert found(engine) == damage
        assert found(engine) == damage, "a look changed something"
        mend(engine)
        engine.in_namespace("ip", "link", "delete", veth_of_log(engine))
        nft(engine, 'delete element ip ishmael bridges { "docker0" }')
        told = len(mended(engine))
        engine.start()
        assert len(mended(engine)) == told + 2, "the start told what it mended"
        assert found(engine) == set()
        assert fetch_locally(engine, "http://127.0.0.1:8080/") == PAGE


def veth_of_log(engine: Engine) -> str:
    joined = [e.event.endpoint.endpoint_id for e in events_of(engine) if e.event.NAME == "network.endpoint_allocated"]
    return f"veth{joined[-1][:7]}"
