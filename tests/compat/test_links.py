"""Links between containers: legacy ones on the default bridge, and names of one's own on user-defined networks."""

from __future__ import annotations

import pytest

from tests.compat.test_container_rows import ask, create
from tests.support.engine import Engine

pytestmark = pytest.mark.root
SLEEP = ("busybox", "sleep", "1000")


def run(engine: Engine, name: str, *options: str) -> None:
    engine.cli("run", "-d", "--name", name, *options, *SLEEP)


def address(engine: Engine, name: str) -> str:
    found = engine.json(f"/containers/{name}/json")["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
    assert isinstance(found, str)
    return found


def hosts(engine: Engine, name: str) -> dict[str, str]:
    """First name -> address."""
    lines = engine.out("exec", name, "cat", "/etc/hosts").splitlines()
    return {words[1]: words[0] for words in map(str.split, lines)}


def names(engine: Engine, name: str) -> list[str]:
    rows = engine.json("/containers/json?all=1")
    return next(list(row["Names"]) for row in rows if f"/{name}" in row["Names"])


def test_a_linked_container_is_known_by_alias_hostname_and_name(engine: Engine) -> None:
    """CTR-44: /etc/hosts, the variables of ports and environment, in the process and in execs; inspect and ps."""
    run(engine, "db", "--hostname", "store", "--expose", "5432", "-e", "PASSWORD=quiet42")
    engine.cli("run", "-d", "--name", "web", "--link", "db:my-db", "-e", "MY_DB_NAME=mine", *SLEEP)
    where = address(engine, "db")
    assert f"{where}\tmy-db store db" in engine.out("exec", "web", "cat", "/etc/hosts")
    assert engine.cli("exec", "web", "ping", "-c", "1", "my-db", check=False).returncode == 0
    process = engine.out("exec", "web", "cat", "/proc/1/environ").split("\0")
    for told in (engine.out("exec", "web", "env").splitlines(), process):
        assert f"MY_DB_PORT_5432_TCP=tcp://{where}:5432" in told
        assert "MY_DB_ENV_PASSWORD=quiet42" in told
        assert "MY_DB_NAME=mine" in told, "the container's own come first"
    document = engine.json("/containers/web/json")
    assert document["HostConfig"]["Links"] == ["/db:/web/my-db"]
    assert not any("quiet42" in variable for variable in document["Config"]["Env"])
    assert names(engine, "db") == ["/db", "/web/my-db"]
    assert engine.out("ps", "--format", "{{.Image}} {{.Names}}", "--filter", "name=web/my-db") == "busybox db"
    assert engine.json("/containers/web/my-db/json")["Name"] == "/db"
    written = b"".join(file.read_bytes() for file in engine.data_root.glob("events.db*"))
    assert b"my-db" in written
    assert b"quiet42" not in written


def test_hosts_follow_a_linked_container_to_its_next_address(engine: Engine) -> None:
    """CTR-44: while the container that links runs on; the container's own lines stay."""
    run(engine, "db")
    run(engine, "web", "--link", "db")
    engine.cli("exec", "web", "sh", "-c", "echo 10.1.2.3 mine >> /etc/hosts")
    before = address(engine, "db")
    engine.cli("stop", "-t", "0", "db")
    run(engine, "other")
    engine.cli("start", "db")
    after = address(engine, "db")
    assert after != before
    assert hosts(engine, "web")["db"] == after
    assert hosts(engine, "web")["mine"] == "10.1.2.3"


def test_links_that_cannot_be_made(engine: Engine) -> None:
    """CTR-44: refused at create, in Docker's words, and nothing is made."""
    run(engine, "shared", "--network", "host")
    for host, words in (
        ({"Links": ["nobody:x"]}, "could not get container for nobody: No such container: nobody"),
        ({"Links": ["web"]}, "could not get container for web: No such container: web"),
        ({"Links": ["a:b:c"]}, "bad format for links: a:b:c"),
        (
            {"Links": ["shared"]},
            "conflicting options: host type networking can't be used with links. This would result in undefined "
            "behavior",
        ),
        (
            {"Links": ["shared"], "NetworkMode": "host"},
            "conflicting options: host type networking can't be used with links. This would result in undefined "
            "behavior",
        ),
        (
            {"Links": ["shared"], "NetworkMode": "container:shared"},
            "conflicting options: container type network can't be used with links. This would result in undefined "
            "behavior",
        ),
    ):
        assert create(engine, "web", HostConfig=host) == (400, words)
    assert ask(engine, "GET", "/containers/web/json")[0] == 404


def test_a_start_needs_the_linked_container_to_run(engine: Engine) -> None:
    """CTR-44: on the default bridge; a removed one is told by the name it had."""
    engine.cli("create", "--name", "db", *SLEEP)
    engine.cli("create", "--name", "web", "--link", "db:database", *SLEEP)
    words = "Cannot link to a non running container: /db AS /web/database"
    assert ask(engine, "POST", "/containers/web/start") == (500, words)
    engine.cli("network", "create", "back")
    engine.cli("network", "connect", "back", "db")
    engine.cli("network", "disconnect", "bridge", "db")
    engine.cli("start", "db")
    words = "Cannot link to /db, as it does not belong to the default network"
    assert ask(engine, "POST", "/containers/web/start") == (500, words)
    engine.cli("rm", "-f", "db")
    words = "Cannot link to a non running container: /db AS /web/database"
    assert ask(engine, "POST", "/containers/web/start") == (500, words)
    assert engine.json("/containers/web/json")["HostConfig"]["Links"] == ["/db:/web/database"]


def test_a_link_is_taken_back_and_follows_names(engine: Engine) -> None:
    """CTR-44: `rm --link`, and renaming either side; the containers stay."""
    run(engine, "db")
    run(engine, "web", "--link", "db:database")
    engine.cli("rename", "web", "shop")
    engine.cli("rename", "db", "store")
    assert names(engine, "store") == ["/store", "/shop/database"]
    assert engine.json("/containers/shop/json")["HostConfig"]["Links"] == ["/store:/shop/database"]
    words = "Conflict, cannot remove the default link name of the container"
    assert ask(engine, "DELETE", "/containers/store?link=1") == (409, words)
    engine.cli("rm", "--link", "/shop/database")
    assert names(engine, "store") == ["/store"]
    assert engine.json("/containers/shop/json")["HostConfig"]["Links"] is None
    assert ask(engine, "DELETE", "/containers/shop/database?link=1")[0] == 404
    assert "no longer linked as 'database'" in engine.replay("log").stdout


def test_linked_containers_are_started_first_with_the_engine(engine: Engine) -> None:
    """CTR-44, SYS-10: whatever the order in which they were made."""
    run(engine, "db", "--restart", "always")
    run(engine, "app", "--restart", "always", "--link", "db")
    run(engine, "web", "--restart", "always", "--link", "app")
    engine.kill()
    engine.end_supervisor()
    engine.start()
    engine.wait_for(lambda: all(row["State"] == "running" for row in engine.json("/containers/json?all=1")))
    assert hosts(engine, "web")["app"] == address(engine, "app")


def test_links_on_a_user_defined_network_are_names_of_ones_own(engine: Engine) -> None:
    """CTR-44, NET-24: only the container that links resolves them; without variables and hosts."""
    engine.cli("network", "create", "back")
    run(engine, "db", "--network", "back", "-e", "PASSWORD=quiet43")
    run(engine, "web", "--network", "back", "--link", "db:database")
    run(engine, "late", "--network", "back")
    assert "Address" in engine.out("exec", "web", "nslookup", "database")
    assert engine.cli("exec", "web", "ping", "-c", "1", "Database.back", check=False).returncode == 0
    assert engine.cli("exec", "late", "ping", "-c", "1", "database", check=False).returncode != 0
    assert "DATABASE" not in engine.out("exec", "web", "env")
    assert "database" not in hosts(engine, "web")
    settings = engine.json("/containers/web/json")
    assert settings["NetworkSettings"]["Networks"]["back"]["Links"] == ["db:database"]
    assert settings["HostConfig"]["Links"] is None
    engine.cli("network", "create", "front")
    run(engine, "third", "--network", "front")
    engine.cli("network", "connect", "--link", "db:store", "back", "third")
    assert engine.cli("exec", "third", "ping", "-c", "1", "store", check=False).returncode == 0
    engine.cli("restart", "-t", "0", "db")
    assert engine.cli("exec", "third", "ping", "-c", "1", "store", check=False).returncode == 0
    assert engine.cli("exec", "web", "ping", "-c", "1", "database", check=False).returncode == 0
