"""Dockerfile instructions that change only the configuration: `docker import --change`, `docker commit --change`.

Pure. Owns their grammar: shell and JSON forms, quoting, variables of the environment as set so far. Source: moby
builder/dockerfile (BuildFromConfig, dispatchers), BuildKit's instructions and shell packages.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable, Mapping, Sequence

from msgspec.structs import replace

from engine.aggregates.decider import Reason, Rejected
from engine.aggregates.values.config import ContainerConfig, HealthConfig
from engine.aggregates.values.ports import parse_port_range
from engine.aggregates.values.signals import parse_signal

SHELL = ("/bin/sh", "-c")
SECOND_NS = 1_000_000_000

_DURATION_UNITS = {"ns": 1, "us": 1000, "ms": 1_000_000, "s": SECOND_NS, "m": 60 * SECOND_NS, "h": 3600 * SECOND_NS}
_DURATION = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?(?:ns|us|ms|s|m|h))+")
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ns|us|ms|s|m|h)")
_VARIABLE = re.compile(r"\$(?:\{([A-Za-z_][A-Za-z0-9_]*)(?::([-+])([^}]*))?\}|([A-Za-z_][A-Za-z0-9_]*))")


def apply_instructions(config: ContainerConfig, instructions: Sequence[str]) -> ContainerConfig:
    """The configuration after all instructions, in order. Raises Rejected(INVALID)."""
    for instruction in instructions:
        for line in instruction.splitlines():
            if line.strip() and not line.lstrip().startswith("#"):
                config = _apply(config, line.strip())
    return config


def _apply(config: ContainerConfig, line: str) -> ContainerConfig:
    keyword, _, rest = line.partition(" ")
    word, rest = keyword.upper(), rest.strip()
    handler = _HANDLERS.get(word)
    if handler is None:
        raise _invalid(f"{word} is not a valid change command")
    if not rest:
        raise _invalid(f"{word} requires at least one argument")
    return handler(config, rest)


def _cmd(config: ContainerConfig, rest: str) -> ContainerConfig:
    return replace(config, cmd=_json_form(rest) or (*(config.shell or SHELL), rest), args_escaped=False)


def _entrypoint(config: ContainerConfig, rest: str) -> ContainerConfig:
    """Like CMD; a command inherited from before does not belong to the new entrypoint, but one set here stays."""
    return replace(config, entrypoint=_json_form(rest) or (*(config.shell or SHELL), rest))


def _env(config: ContainerConfig, rest: str) -> ContainerConfig:
    values = dict(entry.partition("=")[::2] for entry in config.env or ())
    values |= _pairs("ENV", rest, values)
    return replace(config, env=tuple(f"{name}={value}" for name, value in values.items()))


def _label(config: ContainerConfig, rest: str) -> ContainerConfig:
    return replace(config, labels={**(config.labels or {}), **_pairs("LABEL", rest, _environment(config))})


def _expose(config: ContainerConfig, rest: str) -> ContainerConfig:
    ports = dict(config.exposed_ports or {})
    for word in _words(_expand(rest, _environment(config))):
        wished = parse_port_range(word)
        ports |= {f"{number}/{wished.protocol}": {} for number in wished}
    return replace(config, exposed_ports=ports)


def _healthcheck(config: ContainerConfig, rest: str) -> ContainerConfig:
    options: dict[str, int] = {}
    words = rest
    while words.startswith("--"):
        option, _, words = words.partition(" ")
        words = words.strip()
        name, separator, value = option[2:].partition("=")
        field = name.replace("-", "_")
        if field not in ("interval", "timeout", "start_period", "start_interval", "retries") or not separator:
            raise _invalid(f"unknown flag: {name}")
        options[field] = _retries(value) if field == "retries" else _duration(name, value)
    kind, _, command = words.partition(" ")
    command = command.strip()
    if kind.upper() == "NONE":
        if command:
            raise _invalid("HEALTHCHECK NONE takes no arguments")
        return replace(config, healthcheck=HealthConfig(test=("NONE",)))
    if kind.upper() != "CMD":
        raise _invalid(f'Unknown type "{kind}" in HEALTHCHECK (try CMD)')
    if not command:
        raise _invalid("Missing command after HEALTHCHECK CMD")
    listed = _json_form(command)
    test = ("CMD", *listed) if listed else ("CMD-SHELL", command)
    return replace(config, healthcheck=HealthConfig(test=test, **options))


def _retries(value: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", value) or int(value) < 1:
        raise _invalid("--retries must be at least 1")
    return int(value)


def _duration(name: str, value: str) -> int:
    """Go's durations; below a millisecond is refused, 0 means the default."""
    if value == "0":
        return 0
    if not _DURATION.fullmatch(value):
        raise _invalid(f'time: invalid duration "{value}"')
    total = sum(int(float(number) * _DURATION_UNITS[unit]) for number, unit in _DURATION_PART.findall(value))
    if 0 < total < 1_000_000:
        raise _invalid(f'Interval "{name}" cannot be less than 1ms')
    return total


def _onbuild(config: ContainerConfig, rest: str) -> ContainerConfig:
    trigger = rest.partition(" ")[0].upper()
    if trigger == "ONBUILD":
        raise _invalid("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    if trigger in ("FROM", "MAINTAINER"):
        raise _invalid(f"{trigger} isn't allowed as an ONBUILD trigger")
    return replace(config, on_build=(*(config.on_build or ()), rest))


def _stopsignal(config: ContainerConfig, rest: str) -> ContainerConfig:
    name = _single("STOPSIGNAL", rest, config)
    parse_signal(name)
    return replace(config, stop_signal=name)


def _user(config: ContainerConfig, rest: str) -> ContainerConfig:
    return replace(config, user=_single("USER", rest, config))


def _volume(config: ContainerConfig, rest: str) -> ContainerConfig:
    paths = _json_form(rest) or tuple(_words(_expand(rest, _environment(config))))
    if not all(path.strip() for path in paths):
        raise _invalid("VOLUME specified can not be an empty string")
    return replace(config, volumes={**(config.volumes or {}), **{path.strip(): {} for path in paths}})


def _workdir(config: ContainerConfig, rest: str) -> ContainerConfig:
    path = _unquoted(_expand(rest, _environment(config)))
    return replace(config, working_dir=posixpath.normpath(posixpath.join(config.working_dir or "/", path)))


Handler = Callable[[ContainerConfig, str], ContainerConfig]
_HANDLERS: Mapping[str, Handler] = {
    "CMD": _cmd,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "ONBUILD": _onbuild,
    "STOPSIGNAL": _stopsignal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}


# -- grammar -----------------------------------------------------------------------------------------------------------


def _json_form(text: str) -> tuple[str, ...] | None:
    """`["a", "b"]` as a tuple; None for the shell form, which anything that is not such a list is."""
    if not text.startswith("["):
        return None
    try:
        listed = json.loads(text)
    except ValueError:
        return None
    if not isinstance(listed, list) or not all(isinstance(word, str) for word in listed):
        return None
    return tuple(listed)


def _pairs(what: str, text: str, environment: Mapping[str, str]) -> dict[str, str]:
    """`a=b c="d e"`, or the old form `a the rest`."""
    first = re.split(r"\s", text, maxsplit=1)[0]
    if "=" not in first:
        name, _, value = text.partition(" ")
        if not value.strip():
            raise _invalid(f"{what} must have two arguments")
        return {name: _unquoted(_expand(value.strip(), environment))}
    pairs = {}
    for word in _raw_words(text):
        name, separator, value = word.partition("=")
        if not separator:
            raise _invalid(f"Syntax error - can't find = in {json.dumps(word)}. Must be of the form: name=value")
        if not _unquoted(name):
            raise _invalid(f"{what} names can not be blank")
        pairs[_unquoted(name)] = _unquoted(_expand(value, environment))
    return pairs


def _raw_words(text: str) -> list[str]:
    """Split at blanks outside quotes; quotes and backslashes stay."""
    return re.findall(r"""(?:\\.|"(?:\\.|[^"\\])*"|'[^']*'|[^\s"'\\])+""", text)


def _words(text: str) -> list[str]:
    return [_unquoted(word) for word in _raw_words(text)]


def _unquoted(word: str) -> str:
    """Without its quotes and escapes, as a shell would take it."""

    def plain(match: re.Match[str]) -> str:
        if match[1] is not None:
            return match[1]
        if match[2] is not None:
            return re.sub(r'\\(["\\$])', r"\1", match[2])
        return match[3]

    return re.sub(r"""\\(.)|"((?:\\.|[^"\\])*)"|'([^']*)'""", plain, word)


def _expand(text: str, environment: Mapping[str, str]) -> str:
    """`$name`, `${name}`, `${name:-default}`, `${name:+other}`; not within single quotes, nor behind a backslash."""

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[4]
        found = environment.get(name, "")
        if match[2] == "-":
            return found or match[3]
        if match[2] == "+":
            return match[3] if found else ""
        return found

    parts = re.split(r"('[^']*'|\\.)", text)
    return "".join(part if index % 2 else _VARIABLE.sub(value, part) for index, part in enumerate(parts))


def _environment(config: ContainerConfig) -> dict[str, str]:
    return dict(entry.partition("=")[::2] for entry in config.env or ())


def _single(what: str, rest: str, config: ContainerConfig) -> str:
    words = _words(_expand(rest, _environment(config)))
    if len(words) != 1:
        raise _invalid(f"{what} requires exactly one argument")
    return words[0]


def _invalid(words: str) -> Rejected:
    return Rejected(Reason.INVALID, words)
