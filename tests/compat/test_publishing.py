"""Published ports between hosts, networks and containers, and the firewall's neighbours."""

from __future__ import annotations

import json
import re

import pytest

from tests.support.engine import Engine
from tests.support.outside import HOST_ADDRESS, OUTSIDE_ADDRESS, Neighbour, fetch_locally, neighbour

pytestmark = pytest.mark.root
SERVE = "mkdir /www; echo page of $(hostname) > /www/index.html; httpd -f -h /www"
PAGE = "page of web\n"


def serve(engine: Engine, *options: str, name: str = "web", command: str = SERVE) -> None:
    engine.cli("run", "-d", "--name", name, "--hostname", name, *options, "busybox", "sh", "-c", command)


def answers(engine: Engine, outside: Neighbour, port: int) -> None:
    engine.wait_for(lambda: outside.fetch(f"http://{HOST_ADDRESS}:{port}/") == PAGE)


def test_a_range_is_published_port_by_port(engine: Engine) -> None:
    """NET-13: ranges on both sides, and one port out of a range of the host's."""
    serve(engine, "-p", "8100-8102:80-82")
    given = {line for line in engine.out("port", "web").splitlines() if "[::]" not in line}
    assert given == {f"{80 + n}/tcp -> 0.0.0.0:{8100 + n}" for n in range(3)}
    serve(engine, "-p", "8100-8105:80", name="next")
    assert engine.out("port", "next", "80").splitlines()[0] == "0.0.0.0:8103"
    assert fetch_locally(engine, "http://127.0.0.1:8103/") == "page of next\n"


def test_everybody_who_may_reaches_a_published_port(engine: Engine) -> None:
    """NET-15, NET-18: from outside, loopback, the same network, another one, the container itself; an internal network
    has no way to it. All of it also after a kill -9 of the engine."""
    engine.cli("network", "create", "other")
    engine.cli("network", "create", "--internal", "inner")
    serve(engine, "-p", "8110:80")
    url = f"http://{HOST_ADDRESS}:8110/"
    with neighbour(engine) as outside:
        for _ in range(2):
            answers(engine, outside, 8110)
            assert fetch_locally(engine, "http://127.0.0.1:8110/") == PAGE
            for network in ("bridge", "other"):
                assert engine.out("run", "--rm", "--network", network, "busybox", "wget", "-qO-", url) + "\n" == PAGE
            assert engine.out("exec", "web", "wget", "-qO-", url) + "\n" == PAGE
            inner = ("run", "--rm", "--network", "inner", "busybox", "timeout", "2", "wget", "-qO-", url)
            assert engine.cli(*inner, check=False).returncode != 0
            engine.kill()
            engine.start()


def test_the_source_address_is_seen(engine: Engine) -> None:
    """NET-13: of another host as it is."""
    serve(engine, "-p", "8111:80", command=SERVE.replace("httpd -f", "httpd -f -vv"))
    with neighbour(engine) as outside:
        answers(engine, outside, 8111)
        assert OUTSIDE_ADDRESS in engine.cli("logs", "web").stderr


def test_connections_live_on_when_the_engine_is_killed(engine: Engine) -> None:
    """NET-38: one that was opened before is answered after."""
    serve(engine, "-p", "8112:7", command="nc -ll -p 7 -e cat")
    with neighbour(engine) as outside:
        with outside.connected(HOST_ADDRESS, 8112) as connection:
            connection.sendall(b"before\n")
            assert connection.recv(100) == b"before\n"
            engine.kill()
            connection.sendall(b"meanwhile\n")
            assert connection.recv(100) == b"meanwhile\n"
            engine.start()
            connection.sendall(b"after\n")
            assert connection.recv(100) == b"after\n"


def test_a_refused_start_leaves_nothing_published(engine: Engine) -> None:
    """NET-14: of several ports, when one is taken; in the kernel and in the log."""
    serve(engine, "-p", "8121:80", name="first")
    before = engine.in_namespace("nft", "list", "ruleset").stdout
    engine.cli("create", "--name", "second", "-p", "8120:80", "-p", "8121:81", "busybox", "sleep", "1000")
    status, body = engine.request("POST", "/containers/second/start")
    assert (status, "port is already allocated" in json.loads(body)["message"]) == (500, True)
    assert engine.in_namespace("nft", "list", "ruleset").stdout == before
    serve(engine, "-p", "8120:80")
    assert fetch_locally(engine, "http://127.0.0.1:8120/") == PAGE


def test_an_address_that_is_not_the_hosts(engine: Engine) -> None:
    """NET-13, NET-14."""
    engine.cli("create", "--name", "web", "-p", "192.0.2.77:8130:80", "busybox", "sleep", "1000")
    status, body = engine.request("POST", "/containers/web/start")
    assert (status, "cannot assign requested address" in json.loads(body)["message"]) == (500, True)


def test_sctp_is_let_through_like_the_others(engine: Engine) -> None:
    """NET-13: this needs no module of the host, only whoever speaks it."""
    serve(engine, "-p", "8131:80/sctp")
    assert engine.out("port", "web").splitlines()[0] == "80/sctp -> 0.0.0.0:8131"
    assert "sctp . 8131" in engine.in_namespace("nft", "list", "map", "ip", "ishmael", "published_any").stdout
    engine.cli("rm", "-f", "web")
    assert "8131" not in engine.in_namespace("nft", "list", "map", "ip", "ishmael", "published_any").stdout


def test_the_administrators_chain_comes_first_and_stays(engine: Engine) -> None:
    """NET-16: what DOCKER-USER is for: refused before anything of ours lets it through, also after a restart."""
    serve(engine, "-p", "8140:80")
    engine.in_namespace("nft", f"add rule ip ishmael user ip saddr {OUTSIDE_ADDRESS} drop")
    with neighbour(engine) as outside:
        engine.wait_for(lambda: fetch_locally(engine, "http://127.0.0.1:8140/") == PAGE)
        assert outside.fetch(f"http://{HOST_ADDRESS}:8140/") == ""
        engine.restart()
        assert outside.fetch(f"http://{HOST_ADDRESS}:8140/") == ""
        engine.in_namespace("nft", "flush chain ip ishmael user")
        answers(engine, outside, 8140)


FOREIGN = """
table inet firewalld {
  chain filter_FORWARD { type filter hook forward priority filter + 10; policy accept; ct state established accept; }
  chain filter_INPUT { type filter hook input priority filter + 10; policy accept; tcp dport 22 accept; }
  chain nat_POSTROUTING { type nat hook postrouting priority srcnat + 10; policy accept; }
}
table ip nat {
  chain PREROUTING { type nat hook prerouting priority dstnat; policy accept; tcp dport 8159 redirect to :8150; }
}
"""


def foreign(engine: Engine) -> str:
    """What others have in the firewall, without counters."""
    listed = "".join(
        engine.in_namespace("nft", "list", "table", *table.split()).stdout for table in ("inet firewalld", "ip nat")
    )
    return re.sub(r"packets \d+ bytes \d+", "", listed)


def test_tables_of_others_are_left_alone(engine: Engine) -> None:
    """NET-16, NET-17: through networks, ports, restarts and kills."""
    engine.in_namespace("sh", "-c", f"nft -f - <<'END'\n{FOREIGN}\nEND")
    before = foreign(engine)
    engine.cli("network", "create", "--ipv6", "yard")
    serve(engine, "--network", "yard", "-p", "8150:80")
    with neighbour(engine) as outside:
        answers(engine, outside, 8150)
        engine.kill()
        engine.start()
        answers(engine, outside, 8150)
    engine.cli("rm", "-f", "web")
    engine.cli("network", "rm", "yard")
    engine.restart()
    assert foreign(engine) == before
    engine.in_namespace("nft", "delete table inet firewalld; delete table ip nat")


def test_the_rules_do_not_grow_with_ports_and_networks(engine: Engine) -> None:
    """NET-16: ports are elements: the number of rules stays, so what one more costs a packet does too."""

    def rules() -> int:
        listed = json.loads(engine.in_namespace("nft", "-j", "list", "ruleset").stdout)["nftables"]
        return sum("rule" in each for each in listed)

    before = rules()
    engine.cli("network", "create", "--ipv6", "yard")
    serve(engine, "--network", "yard", "-p", "9000-9499:9000-9499", command="exec sleep 1000")
    assert rules() == before
    assert engine.in_namespace("nft", "list", "map", "ip", "ishmael", "published_any").stdout.count("tcp . ") == 500
