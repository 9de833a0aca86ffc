"""`docker ps --filter`: which containers a filter accepts (CTR-21).

Source: moby daemon/list.go. Unknown keys are refused; a name is a regular expression, health and status are exact.
"""

from __future__ import annotations

import re
from typing import Any

from engine.aggregates.container.state import ContainerState
from engine.aggregates.decider import Reason, Rejected
from engine.aggregates.values.ids import short
from engine.api.filters import Filters
from engine.api.shapes.containers import ports_rows, status_of

ACCEPTED = frozenset(
    ["ancestor", "before", "exited", "expose", "health", "id", "is-task", "isolation", "label", "name", "network",
    "publish", "since", "status", "volume"] )
STATUSES = ("created", "running", "paused", "restarting", "removing", "exited", "dead")
PORT_MAX = 65535
_PORT = re.compile(r"[0-9]{1,5}")
HEALTHS = ("none", "starting", "healthy", "unhealthy")


class ContainerFilter:
    """A filter over the views at hand. Raises Rejected(INVALID) for unknown keys and values."""

    def __init__(self, filters: Filters, views: Any) -> None:
        self._filters = filters.validate(ACCEPTED)
        self._views = views
        for key, what, allowed in (("status", "state", STATUSES), ("health", "health", HEALTHS)):
            for value in filters.get(key):
                if value not in allowed:
                    words = f"invalid value for {what} ({value}): must be one of {', '.join(allowed)}"
                    raise Rejected(Reason.INVALID, f"invalid filter '{key}={value}': {words}")
        self._is_task = filters.boolean("is-task", default=False)
        self._published, self._exposed = self._ports("publish"), self._ports("expose")
        self._exited = tuple(self._number(value) for value in filters.get("exited"))
        self._before = self._moment("before")
        self._since = self._moment("since")
        self._ancestors = self._images()

    @property
    def names_states(self) -> bool:
        """Whether the filter itself asks for containers that do not run: `status` does, `exited` does not."""
        return "status" in self._filters

    @property
    def empty(self) -> bool:
        """It accepts everything."""
        return not self._filters.values

    def accepts(self, state: ContainerState) -> bool:
        if self.empty:
            return True
        filters = self._filters
        return (
            not self._is_task
            and filters.labels("label", state.config.labels)
            and self._named(state)
            and filters.prefix("id", state.container_id)
            and filters.exact("status", status_of(state))
            and filters.exact("health", state.health.status.value)
            and filters.exact("isolation", state.host.isolation or "default")
            and (not self._exited or (self._has_exited(state) and state.exit_code in self._exited))
            and (self._before is None or state.created_at < self._before)
            and (self._since is None or state.created_at > self._since)
            and (self._ancestors is None or state.image_id in self._ancestors)
            and self._on_network(state)
            and self._has_volume(state)
            and self._has_ports(state)
        )

    @staticmethod
    def _has_exited(state: ContainerState) -> bool:
        return not state.alive and state.has_been_started and status_of(state) != "restarting"

    def _named(self, state: ContainerState) -> bool:
        names = (state.name, *self._views.containers.link_names(state.container_id))
        return any(self._filters.match("name", f"/{name}") or self._filters.match("name", name) for name in names)

    def _has_volume(self, state: ContainerState) -> bool:
        wanted = self._filters.get("volume")
        return not wanted or any(
            value in (point.name, point.source, point.destination) for value in wanted for point in state.mounts
        )

    def _has_ports(self, state: ContainerState) -> bool:
        """A published host port of one filter, or a container's port of the other; both of containers that run."""
        if not self._published and not self._exposed:
            return True
        return any(
            f"{row.get('PublicPort', 0)}/{row['Type']}" in self._published
            or f"{row['PrivatePort']}/{row['Type']}" in self._exposed
            for row in ports_rows(state)
        )

    def _ports(self, key: str) -> frozenset[str]:
        return frozenset(port for value in self._filters.get(key) for port in _expanded(key, value))

    def _number(self, value: str) -> int:
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", value):
            words = f"strconv.Atoi: parsing \"{value}\": invalid syntax"
            raise Rejected(Reason.INVALID, f"invalid filter 'exited={value}': {words}")
        return int(value)

    def _moment(self, key: str) -> int | None:
        values = self._filters.get(key)
        created: int | None = self._views.containers.find(values[0]).created_at if values else None
        return created

    def _images(self) -> frozenset[str] | None:
        wanted = self._filters.get("ancestor")
        if not wanted:
            return None
        found = {image.image_id for value in wanted if (image := self._views.images.lookup(value)) is not None}
        grown = True
        while grown:  # what was committed from one of them descends from it too
            children = {image.image_id for image in self._views.images if image.parent in found}
            grown = not children <= found
            found |= children
        return frozenset(found)

    def _on_network(self, state: ContainerState) -> bool:
        """By a network's name, or the beginning of its id for one that the container has been on (moby daemon/list.go).
        """
        wanted = self._filters.get("network")
        return not wanted or any(
            attachment.name == value or attachment.network_id.startswith(value)
            for attachment in state.networks
            for value in wanted
        )


def _expanded(key: str, value: str) -> frozenset[str]:
    """`80`, `80/tcp` or `8000-8010/udp` as the ports it means."""
    numbers, _, protocol = value.partition("/")
    first, _, last = numbers.partition("-")
    if ":" in numbers:
        raise Rejected(Reason.INVALID, f"filter for '{key}' should not contain ':': {value}")
    last = last or first
    if not (_PORT.fullmatch(first) and _PORT.fullmatch(last) and int(first) <= int(last) <= PORT_MAX):
        raise Rejected(Reason.INVALID, f"error while looking up for {key} {value}: invalid port range")
    return frozenset(f"{number}/{protocol or 'tcp'}" for number in range(int(first), int(last) + 1))


def image_name(state: ContainerState, images: Any) -> str:
    """The IMAGE column: the name it was made from while that still means the same image, else the short id."""
    named = images.lookup(state.config.image)
    if named is not None and named.image_id == state.image_id:
        return state.config.image
    return short(state.image_id)
