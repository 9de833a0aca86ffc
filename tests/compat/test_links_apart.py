"""Legacy links on a default bridge that keeps its containers apart (`--icc=false`)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.compat.test_links import address, run
from tests.support.engine import Engine, running_engine

pytestmark = pytest.mark.root
SERVERS = ("busybox", "sh", "-c", "httpd -p 80 -h /etc; httpd -p 81 -h /etc; exec sleep 1000")


@pytest.fixture(scope="module")
def module_engine() -> Iterator[Engine]:
    with running_engine("--icc=false") as engine:
        yield engine


def reaches(engine: Engine, name: str, server: str, port: int) -> bool:
    """Whether a container is answered by the web server of another."""
    ask = f"printf 'GET /hostname HTTP/1.0\\r\\n\\r\\n' | nc -w 1 {server} {port}"
    return "200 OK" in engine.cli("exec", name, "sh", "-c", ask, check=False).stdout


def serve(engine: Engine, name: str, *options: str) -> str:
    """The address of a container that listens on 80 and 81."""
    engine.cli("run", "-d", "--name", name, *options, *SERVERS)
    listening = "netstat -ltn | grep -q :81"
    engine.wait_for(lambda: engine.cli("exec", name, "sh", "-c", listening, check=False).returncode == 0)
    return address(engine, name)


def rules(engine: Engine) -> str:
    return engine.in_namespace("nft", "list", "ruleset").stdout


def test_a_link_opens_the_exposed_ports_and_nothing_else(engine: Engine) -> None:
    """NET-18, CTR-44: from the start of the container that links until its end."""
    db = serve(engine, "db", "--expose", "80")
    stranger = serve(engine, "stranger", "--expose", "80")
    web = serve(engine, "web", "--link", "db")
    assert reaches(engine, "web", db, 80)
    for name, server, port in (
        ("web", db, 81),
        ("web", stranger, 80),
        ("db", web, 80),
        ("stranger", db, 80),
        ("stranger", web, 80),
    ):
        assert not reaches(engine, name, server, port), (name, server, port)
    assert "table bridge ishmael" in rules(engine)
    engine.cli("rm", "-f", "web")
    assert 'iifname "veth' not in rules(engine)


def test_what_a_link_opens_follows_the_linked_container(engine: Engine) -> None:
    """NET-18, CTR-44: to its next address, over a crash of the engine, and away when the link is taken back."""
    before = serve(engine, "db", "--expose", "80")
    run(engine, "web", "--link", "db")
    engine.cli("stop", "-t", "0", "db")
    run(engine, "other")
    engine.cli("start", "db")
    after = address(engine, "db")
    assert after != before
    engine.wait_for(lambda: reaches(engine, "web", after, 80))
    engine.kill()
    engine.start()
    assert reaches(engine, "web", after, 80)
    engine.cli("rm", "--link", "web/db")
    engine.wait_for(lambda: not reaches(engine, "web", after, 80))


def test_rules_of_a_container_that_ended_while_the_engine_was_away_are_cleared(engine: Engine) -> None:
    """NET-18."""
    db = serve(engine, "db", "--expose", "80")
    run(engine, "web", "--link", "db")
    assert reaches(engine, "web", db, 80)
    pid = engine.json("/containers/web/json")["State"]["Pid"]
    engine.kill()
    engine.in_namespace("kill", "-9", str(pid))
    engine.start()
    engine.wait_for(lambda: not engine.json("/containers/web/json")["State"]["Running"])
    assert 'iifname "veth' not in rules(engine)
