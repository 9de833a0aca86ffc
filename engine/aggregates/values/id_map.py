"""Users of a container as users of the host: ranges of ids, as /proc/<pid>/uid_map has them (SEC-10)."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec


class IdRange(msgspec.Struct, frozen=True):
    """`size` ids from `inside` on in the container are those from `outside` on of the host."""

    inside: int
    outside: int
    size: int


class IdMap(msgspec.Struct, frozen=True, kw_only=True):
    """Of one engine. Neither list is empty, and both begin with the container's root."""

    uids: tuple[IdRange, ...]
    gids: tuple[IdRange, ...]

    @property
    def root(self) -> tuple[int, int]:
        """uid and gid on the host of the containers' root."""
        return self.uids[0].outside, self.gids[0].outside


def outside(ranges: Iterable[IdRange], inside: int) -> int | None:
    """The host's id, None for one that has none."""
    for each in ranges:
        if each.inside <= inside < each.inside + each.size:
            return each.outside + inside - each.inside
    return None


def joined(subordinate: Iterable[tuple[int, int]]) -> tuple[IdRange, ...]:
    """Subordinate ranges (start, size) one after another, from the container's 0 on. Source: moby idtools."""
    found: list[IdRange] = []
    following = 0
    for start, size in subordinate:
        found.append(IdRange(following, start, size))
        following += size
    return tuple(found)


def table(ranges: Iterable[IdRange]) -> str:
    """As the kernel takes it."""
    return "".join(f"{each.inside} {each.outside} {each.size}\n" for each in ranges)
