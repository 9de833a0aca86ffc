"""Rows of `docker ps` as JSON text, kept between listings: only the STATUS column changes while nothing happens.

A row is made anew when its container's state, the names of images, links to it or the set of networks changed. The
cache holds at most one row for each container and version gate.
"""

from __future__ import annotations

import msgspec

from engine.aggregates.container.state import ContainerState
from engine.api.shapes.container_filters import image_name
from engine.api.shapes.containers import counts_as_running, status_text, summary
from engine.projections.views import Views

NS = 1_000_000_000
GATES = ((1, 45), (1, 46), (1, 48))
"""Versions at which a row changes its shape."""


class _Row(msgspec.Struct, frozen=True):
    state: ContainerState
    images: int
    networks: int
    link_names: tuple[str, ...]
    head: bytes


class _Listing(msgspec.Struct, frozen=True):
    """stamp: revisions of the views and the second it was made in."""

    stamp: tuple[int, int, int, int]
    body: bytes


def _shape(api_version: tuple[int, int]) -> int:
    """Versions between two gates see the same rows."""
    return sum(api_version >= gate for gate in GATES)


class ContainerRows:
    """The rows of one engine's API."""

    def __init__(self, views: Views) -> None:
        self._views = views
        self._rows: dict[tuple[str, int], _Row] = {}
        self._listings: dict[tuple[bool, int], _Listing] = {}

    def listing(self, now_ns: int, api_version: tuple[int, int], *, everything: bool) -> bytes:
        """`GET /containers/json` without filters. Ages are whole seconds, so a listing serves for one."""
        views = self._views
        key = (everything, _shape(api_version))
        stamp = (views.containers.revision, views.images.revision, views.networks.revision, now_ns // NS)
        kept = self._listings.get(key)
        if kept is None or kept.stamp != stamp:
            states = views.containers.newest_first()
            rows = [self.row(state, now_ns, api_version) for state in states if everything or counts_as_running(state)]
            kept = self._listings[key] = _Listing(stamp, b"[" + b",".join(rows) + b"]\n")
        return kept.body

    def row(self, state: ContainerState, now_ns: int, api_version: tuple[int, int]) -> bytes:
        """One element of `GET /containers/json` without sizes."""
        key = (state.container_id, _shape(api_version))
        images, networks = self._views.images.revision, self._views.networks.revision
        link_names = self._views.containers.link_names(state.container_id)
        row = self._rows.get(key)
        if (
            row is None
            or row.state is not state
            or row.images != images
            or row.networks != networks
            or row.link_names != link_names
        ):
            row = _Row(state, images, networks, link_names, self._head(state, api_version))
            self._rows[key] = row
        return row.head + status_text(state, now_ns).encode() + b'"}'

    def keep_only(self, living: int) -> None:
        """Forget ended containers once they outnumber the living."""
        if len(self._rows) > 2 * living * (len(GATES) + 1) + 64:
            self._rows = {
                key: row for key, row in self._rows.items() if self._views.containers.get(key[0]) is row.state
            }

    def _head(self, state: ContainerState, api_version: tuple[int, int]) -> bytes:
        """Everything up to the value of the last key, `Status`."""
        document = summary(
            state,
            now_ns=0,
            image_name=image_name(state, self._views.images),
            networks=self._views.networks,
            api_version=api_version,
            link_names=self._views.containers.link_names(state.container_id),
        )
        del document["Status"]
        return bytes(msgspec.json.encode(document)[:-1]) + b',"Status":"'
