"""What the commands of a what-if share: a parser that complains with words, and the values that options take."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn, TypeAlias

from engine.aggregates.values.config import EndpointConfig, EndpointIPAMConfig, Resources, RestartPolicy
from engine.config import ConfigError, size_bytes


class WishError(ValueError):
    """Nobody can tell what is asked for."""


class Parser(argparse.ArgumentParser):
    """Of one command. An option is known by its whole name only, so that none is taken for another."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"add_help": False, "allow_abbrev": False, **options})

    def error(self, message: str) -> NoReturn:
        raise WishError(message)


Verbs: TypeAlias = "argparse._SubParsersAction[Parser]"


def verb(verbs: Verbs, name: str, made: object, *positional: str) -> Parser:
    """A command. made: of its arguments and a scene, transactions. A positional `names` takes several, as the CLI does:
    the command is given to one after the other, as `name`."""
    parser = verbs.add_parser(name)
    for each in positional:
        parser.add_argument(each, nargs="+" if each == "names" else None)
    parser.set_defaults(made=made)
    return parser


def add_limits(parser: Parser) -> None:
    """What `limits` reads."""
    for option in ("-m --memory", "--memory-swap", "--memory-reservation"):
        parser.add_argument(*option.split(), type=_size)
    parser.add_argument("-c", "--cpu-shares", type=int)
    parser.add_argument("--cpus", type=float)
    parser.add_argument("--cpuset-cpus")
    parser.add_argument("--pids-limit", type=int)
    parser.add_argument("--restart", type=_policy)


def limits(asked: argparse.Namespace) -> dict[str, Any]:
    """Fields of Resources, those that were given."""
    found = {name: value for name in Resources.__struct_fields__ if (value := getattr(asked, name, None)) is not None}
    if asked.cpus is not None:
        found["nano_cpus"] = round(asked.cpus * 1e9)
    return found


def endpoint(ip: str, ip6: str, aliases: Sequence[str], links: Sequence[str]) -> EndpointConfig:
    """What is wished for on a network."""
    addresses = EndpointIPAMConfig(ipv4_address=ip, ipv6_address=ip6)
    return EndpointConfig(
        aliases=tuple(aliases) or None,
        links=tuple(links) or None,
        ipam_config=addresses if ip or ip6 else None,
    )


def mapping(pairs: Iterable[str]) -> Mapping[str, str]:
    """`-l`, `-o`: NAME=VALUE, or NAME for an empty value."""
    return {name: value for name, _, value in (pair.partition("=") for pair in pairs)}


def _size(text: str) -> int:
    if text == "-1":
        return -1
    try:
        return size_bytes(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _policy(text: str) -> RestartPolicy:
    name, _, count = text.partition(":")
    if name not in ("no", "always", "unless-stopped", "on-failure") or (count and not count.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is no restart policy")
    return RestartPolicy(name=name, maximum_retry_count=int(count or 0))
