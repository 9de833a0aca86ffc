"""What a log says about its container beside the output: tag (LOG-08), labels and variables (LOG-01).

Pure. Values of variables are secrets until somebody asks for them by the `env` options: what is made here goes into
the log driver and never into an event. Source: moby daemon/logger/loginfo.go, loggerutils/log_tag.go, templates.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from engine.aggregates.values.patterns import compiled
from engine.aggregates.values.templates import Template, TemplateError

DEFAULT_TAG = "{{.ID}}"
SHORT = 12


class LogSubject(msgspec.Struct, frozen=True, kw_only=True):
    """A container as its log driver sees it. created_at: RFC 3339. hostname: the host's own."""

    config: Mapping[str, str]
    container_id: str
    name: str
    path: str = ""
    args: tuple[str, ...] = ()
    image_id: str = ""
    image_name: str = ""
    created_at: str = ""
    env: tuple[str, ...] = ()
    labels: Mapping[str, str] = {}
    hostname: str = ""
    log_path: str = ""

    @property
    def command(self) -> str:
        return " ".join((self.path, *self.args))


def attributes(subject: LogSubject, key: Callable[[str], str] = str) -> dict[str, str]:
    """What `labels`, `labels-regex`, `env` and `env-regex` ask for. key: how the driver spells names."""
    variables = dict(text.split("=", 1) for text in subject.env if "=" in text)
    found: dict[str, str] = {}
    for kind, values in (("labels", subject.labels), ("env", variables)):
        names = [name for name in subject.config.get(kind, "").split(",") if name in values]
        pattern = subject.config.get(f"{kind}-regex", "")
        if pattern:
            wanted = compiled(pattern)
            names += [name for name in values if wanted.search(name)]
        found |= {key(name): values[name] for name in names}
    return found


def tag(subject: LogSubject, default: str = DEFAULT_TAG) -> str:
    """The option's template, or the driver's own, filled in. Raises TemplateError with Go's words."""
    text = subject.config.get("tag", "") or default
    return Template("log-tag", text, FUNCTIONS, type_name="*logger.Info").execute(_fields(subject))


def file_attributes(subject: LogSubject) -> dict[str, str]:
    """Of every entry in a file: the attributes, and a tag only when one was asked for."""
    found = attributes(subject)
    wanted = tag(subject, "") if subject.config.get("tag") else ""
    return dict(sorted((found | {"tag": wanted} if wanted else found).items()))


def _fields(subject: LogSubject) -> dict[str, Any]:
    image = subject.image_id.rpartition(":")[2]
    return {
        "ID": subject.container_id[:SHORT],
        "FullID": subject.container_id,
        "Name": subject.name,
        "Command": subject.command,
        "ImageID": image[:SHORT],
        "ImageFullID": subject.image_id,
        "ImageName": subject.image_name,
        "Hostname": subject.hostname,
        "ExtraAttributes": lambda modify=None: attributes(subject),
        "Config": dict(subject.config),
        "ContainerID": subject.container_id,
        "ContainerName": f"/{subject.name}",
        "ContainerEntrypoint": subject.path,
        "ContainerArgs": list(subject.args),
        "ContainerImageID": subject.image_id,
        "ContainerImageName": subject.image_name,
        "ContainerCreated": subject.created_at,
        "ContainerEnv": list(subject.env),
        "ContainerLabels": dict(subject.labels),
        "LogPath": subject.log_path,
        "DaemonName": "docker",
    }


def _pad(text: str, before: int, after: int) -> str:
    return " " * before + text + " " * after if text else text


def _index(container: Any, key: Any) -> Any:
    return container.get(key, "") if isinstance(container, Mapping) else container[key]


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "json": lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True),
    "split": lambda text, separator: text.split(separator),
    "join": lambda items, separator: separator.join(items),
    "title": lambda text: re.sub(r"\b[a-z]", lambda match: match[0].upper(), text),
    "lower": lambda text: text.lower(),
    "upper": lambda text: text.upper(),
    "pad": _pad,
    "truncate": lambda text, length: text[:length],
    "index": _index,
    "len": len,
    "print": lambda *values: "".join(map(str, values)),
}

__all__ = ["FUNCTIONS", "LogSubject", "TemplateError", "attributes", "file_attributes", "tag"]
