"""Messages of `/events` in Docker's shape, and the filters on them.

Source: moby daemon/events/filter.go; Engine API `EventMessage`; the old keys of clients before 1.52 (API-33).
"""

from __future__ import annotations

from typing import Any

from engine.aggregates.decider import Rejected
from engine.aggregates.values import reference
from engine.api.filters import Filters
from engine.api.versions import ApiVersion
from engine.projections.feed_messages import FeedMessage

BY_NAME = ("daemon", "container", "plugin", "volume", "network", "service", "node", "secret", "config")
WITH_DETAIL = frozenset({"health_status", "exec_create", "exec_start"})
SCOPE = "local"
IMAGE_CREATE_SINCE = (1, 46)


def message(told: FeedMessage, api_version: ApiVersion) -> dict[str, Any]:
    """Before 1.52 with `status`, `id` and `from`: CLIs of that age panic without them."""
    shape: dict[str, Any] = {}
    if api_version < (1, 52) and told.type in ("container", "image"):
        shape = {"status": told.action, "id": told.actor_id}
        if told.type == "container":
            shape["from"] = told.attributes.get("image", "")
    return {
        **shape,
        "Type": told.type,
        "Action": told.action,
        "Actor": {"ID": told.actor_id, "Attributes": told.attributes},
        "scope": SCOPE,
        "time": told.time_ns // 1_000_000_000,
        "timeNano": told.time_ns,
    }


def wanted(told: FeedMessage, filters: Filters, api_version: ApiVersion) -> bool:
    """Whether a message passes all filters."""
    if told.type == "image" and told.action == "create" and api_version < IMAGE_CREATE_SINCE:
        return False
    if not filters.values:
        return True
    return (
        _event(told, filters)
        and filters.exact("type", told.type)
        and filters.exact("scope", SCOPE)
        and all(_name(told, filters, key) for key in BY_NAME)
        and _image(told, filters)
        and filters.labels("label", told.attributes)
    )


def _event(told: FeedMessage, filters: Filters) -> bool:
    """`event=health_status` stands for every `health_status: ...`."""
    if WITH_DETAIL.intersection(filters.get("event")):
        return filters.prefix("event", told.action)
    return filters.exact("event", told.action)


def _name(told: FeedMessage, filters: Filters, key: str) -> bool:
    return filters.prefix(key, told.actor_id) or filters.prefix(key, told.attributes.get("name", ""))


def _image(told: FeedMessage, filters: Filters) -> bool:
    """An image's own messages, and those of containers made from it; with or without the tag."""
    if "image" not in filters:
        return True
    name = told.attributes.get("name" if told.type == "image" else "image", "")
    return any(
        filters.exact("image", text) for text in (told.actor_id, name, _without_tag(told.actor_id), _without_tag(name))
    )


def _without_tag(text: str) -> str:
    try:
        return reference.parse(text).familiar_name
    except Rejected:
        return text
