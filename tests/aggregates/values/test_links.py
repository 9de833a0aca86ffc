"""Links as they are written, and what a linked container's variables and hosts look like."""

from __future__ import annotations

import pytest

from engine.aggregates.decider import Rejected
from engine.aggregates.values.etc_files import hosts, relinked
from engine.aggregates.values.links import parse_link, variables


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("db", ("db", "db")),
        ("db:database", ("db", "database")),
        ("/db:/web/database", ("db", "database")),
    ],
)
def test_a_link_is_a_container_and_an_alias(text: str, meant: tuple[str, str]) -> None:
    """CTR-44."""
    assert parse_link(text) == meant


@pytest.mark.parametrize("text", ["", "db:", ":database", "a:b:c"])
def test_what_is_no_link(text: str) -> None:
    """CTR-44."""
    with pytest.raises(Rejected, match="links"):
        parse_link(text)


def test_variables_tell_of_ports_and_environment() -> None:
    """CTR-44: tcp first, each port by itself, HOME and PATH left out."""
    told = variables("/web/my-db", "172.17.0.2", ("PATH=/bin", "PASS=a=b", "FLAG"), ("53/udp", "5432/tcp"))
    assert told == (
        "MY_DB_PORT=tcp://172.17.0.2:5432",
        "MY_DB_PORT_5432_TCP=tcp://172.17.0.2:5432",
        "MY_DB_PORT_5432_TCP_ADDR=172.17.0.2",
        "MY_DB_PORT_5432_TCP_PORT=5432",
        "MY_DB_PORT_5432_TCP_PROTO=tcp",
        "MY_DB_PORT_53_UDP=udp://172.17.0.2:53",
        "MY_DB_PORT_53_UDP_ADDR=172.17.0.2",
        "MY_DB_PORT_53_UDP_PORT=53",
        "MY_DB_PORT_53_UDP_PROTO=udp",
        "MY_DB_NAME=/web/my-db",
        "MY_DB_ENV_PASS=a=b",
    )


def test_ports_in_a_row_are_told_as_a_range_too() -> None:
    """CTR-44."""
    told = variables("/web/db", "10.0.0.1", (), ("82/tcp", "80/tcp", "81/tcp", "90/tcp"))
    assert "DB_PORT=tcp://10.0.0.1:80" in told
    assert "DB_PORT_80_TCP_START=tcp://10.0.0.1:80" in told
    assert "DB_PORT_80_TCP_PORT_END=82" in told
    assert not any("90_TCP_START" in variable for variable in told)


def test_without_ports_there_is_the_name() -> None:
    """CTR-44."""
    assert variables("/web/db", "10.0.0.1", (), ()) == ("DB_NAME=/web/db",)


def test_a_new_address_takes_the_place_of_the_old_one_and_nothing_else_changes() -> None:
    """CTR-44: lines of other hands stay, also one of the same name."""
    text = hosts(
        hostname="web",
        addresses=["172.17.0.3"],
        extra_hosts=["database:10.9.9.9"],
        linked=[("172.17.0.2", "database 0123 db"), ("fd00::2", "database 0123 db")],
    )
    moved = relinked(text, "database", [("172.17.0.7", "database 0123 db")])
    assert moved == text.replace("172.17.0.2\t", "172.17.0.7\t").replace("fd00::2\tdatabase 0123 db\n", "")
    assert relinked("# mine\n", "database", [("172.17.0.7", "database 0123 db")]) == (
        "# mine\n172.17.0.7\tdatabase 0123 db\n"
    )
