"""One segment of old history as a file: whole commits, compressed, with what proves them.

Owns: the file's format. Refuses to know: which segments there are (store.py), what may be left out (retention.py), what
an event says.

    magic | block ... | index | trailer

A block is a zstd frame over columns of about 4,096 events. An event that retention has left out is there by its leaf,
so that every seal can be computed again; of all others the leaf is computed from the bytes, and its first four bytes
(the *mark*) are kept to name the one event that does not fit. The index says where blocks are, which positions, times
and streams they have, and the seal before each. The trailer is the index's place and the magic again.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import struct
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import msgspec

from engine import chain
from engine.codec import LogError

MAGIC = b"ISHSEG1\n"
BLOCK_EVENTS = 4096
MARK_BYTES = 4
LEVEL = 12
"""zstd's: on a log of containers 12 takes four times as long as 3 and a third off the size."""

_TRAILER = struct.Struct(">QI8s")

Row = tuple[int, str, int, str, bytes]
"""(position, stream, version, topic, state)."""


class SegmentError(LogError):
    """The file is not the segment it should be."""


class Commit(NamedTuple):
    """Positions first..last, appended as one. rows: those that are still there, in order; leaves: of all."""

    first: int
    last: int
    rows: Sequence[Row]
    leaves: bytes


class Proof(NamedTuple):
    """What a block proves, without its rows. events: how many are there; commits: (first, last, leaves), in order."""

    events: int
    commits: Sequence[tuple[int, int, bytes]]


class BlockPlace(msgspec.Struct, frozen=True, array_like=True):
    """Where a block is and what it has. seal: of the log before it. streams: sorted 32-bit hashes, big-endian."""

    offset: int
    length: int
    first: int
    last: int
    events: int
    first_ns: int
    last_ns: int
    seal: bytes
    streams: bytes


class Index(msgspec.Struct, frozen=True, array_like=True):
    """seal: of the log after the segment. events: how many are there; last - first + 1 less those left out."""

    first: int
    last: int
    events: int
    seal: bytes
    blocks: tuple[BlockPlace, ...]


class _Columns(msgspec.Struct, frozen=True, array_like=True):
    """sizes: events of each commit. present: positions of the events that are there, as distances. streams, topics:
    indexes into the tables before them. leaves: of those left out, in order; marks: of the others."""

    first: int
    sizes: tuple[int, ...]
    present: tuple[int, ...]
    stream_names: tuple[str, ...]
    streams: tuple[int, ...]
    versions: tuple[int, ...]
    topic_names: tuple[str, ...]
    topics: tuple[int, ...]
    lengths: tuple[int, ...]
    states: bytes
    leaves: bytes
    marks: bytes


def encode(commits: Iterable[Commit], seal: bytes) -> tuple[bytes, Index]:
    """The file's bytes. commits: adjoining, at least one; seal: of the log before them."""
    parts, places, offset = [MAGIC], [], len(MAGIC)
    for group in _blocks(commits):
        data = _compressed(msgspec.msgpack.encode(_columns(group)))
        places.append(_place(group, offset, len(data), seal))
        for commit in group:
            seal = chain.seal(seal, commit.first, commit.last, commit.leaves)
        parts.append(data)
        offset += len(data)
    events = sum(place.events for place in places)
    index = Index(first=places[0].first, last=places[-1].last, events=events, seal=seal, blocks=tuple(places))
    packed = _compressed(msgspec.msgpack.encode(index))
    parts += [packed, _TRAILER.pack(offset, len(packed), MAGIC)]
    return b"".join(parts), index


class SegmentFile:
    """A segment opened for reading. Blocking; safe in threads. Raises SegmentError for what is damaged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                file.seek(-_TRAILER.size, 2)
                offset, length, magic = _TRAILER.unpack(file.read(_TRAILER.size))
                if magic != MAGIC:
                    raise SegmentError(f"{path} does not end as a segment")
                file.seek(offset)
                self.index = msgspec.msgpack.decode(_decompressed(file.read(length), path), type=Index)
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            raise SegmentError(f"{path} can not be read: {error}") from error

    def commits(self, place: BlockPlace, *, trusting: bool = False) -> list[Commit]:
        """What a block holds, in order. trusting: without leaves, for who only wants the rows."""
        with self._columns(place) as columns:
            return list(_commits(columns, trusting))

    def proof(self, place: BlockPlace) -> Proof:
        """What a block proves: for who wants no rows."""
        with self._columns(place) as columns:
            return Proof(len(columns.present), _proven(columns))

    def suspects(self, place: BlockPlace) -> list[int]:
        """Positions whose bytes are not those that were sealed, by their marks."""
        with self._columns(place) as columns:
            return self._unlike_marks(columns)

    @contextlib.contextmanager
    def _columns(self, place: BlockPlace) -> Iterator[_Columns]:
        """A block's columns; whatever is wrong with them, also while they are used, is a SegmentError."""
        try:
            with self.path.open("rb") as file:
                file.seek(place.offset)
                data = _decompressed(file.read(place.length), self.path)
            yield msgspec.msgpack.decode(data, type=_Columns)
        except (OSError, ValueError, IndexError, struct.error, msgspec.MsgspecError) as error:
            raise SegmentError(f"{self.path}: positions {place.first} to {place.last}: {error}") from error

    @staticmethod
    def _unlike_marks(columns: _Columns) -> list[int]:
        marks = [columns.marks[at : at + MARK_BYTES] for at in range(0, len(columns.marks), MARK_BYTES)]
        rows = [row for commit in _commits(columns, True) for row in commit.rows]
        return [row[0] for row, mark in zip(rows, marks, strict=True) if leaf_of(row)[:MARK_BYTES] != mark]


def leaf_of(row: Row) -> bytes:
    _, stream, version, topic, state = row
    return chain.leaf(stream.encode(), version, topic.encode(), state)


def has_stream(place: BlockPlace, stream: str) -> bool:
    """Whether a block may have events of a stream: one hash in a few million says yes where it should not."""
    return _hash(stream) in _hashes(place.streams)


def time_of(state: bytes) -> int:
    """When an event was recorded: the first member of what is stored."""
    return int(msgspec.msgpack.decode(state, type=tuple[int, msgspec.Raw, msgspec.Raw, msgspec.Raw, msgspec.Raw])[0])


def _blocks(commits: Iterable[Commit]) -> Iterator[list[Commit]]:
    group: list[Commit] = []
    for commit in commits:
        group.append(commit)
        if commit.last - group[0].first + 1 >= BLOCK_EVENTS:
            yield group
            group = []
    if group:
        yield group


def _columns(group: Sequence[Commit]) -> _Columns:
    rows = [row for commit in group for row in commit.rows]
    stream_names = {name: index for index, name in enumerate(dict.fromkeys(row[1] for row in rows))}
    topic_names = {name: index for index, name in enumerate(dict.fromkeys(row[3] for row in rows))}
    present = {row[0] for row in rows}
    leaves = {
        position: leaf
        for commit in group
        for position, leaf in enumerate(chain.split_leaves(commit.leaves), commit.first)
    }
    before = [group[0].first - 1, *(row[0] for row in rows)]
    return _Columns(
        first=group[0].first,
        sizes=tuple(commit.last - commit.first + 1 for commit in group),
        present=tuple(row[0] - previous for row, previous in zip(rows, before, strict=False)),
        stream_names=tuple(stream_names),
        streams=tuple(stream_names[row[1]] for row in rows),
        versions=tuple(row[2] for row in rows),
        topic_names=tuple(topic_names),
        topics=tuple(topic_names[row[3]] for row in rows),
        lengths=tuple(len(row[4]) for row in rows),
        states=b"".join(row[4] for row in rows),
        leaves=b"".join(leaf for position, leaf in leaves.items() if position not in present),
        marks=b"".join(leaves[row[0]][:MARK_BYTES] for row in rows),
    )


def _place(group: Sequence[Commit], offset: int, length: int, seal: bytes) -> BlockPlace:
    rows = [row for commit in group for row in commit.rows]
    times = [time_of(rows[0][4]), time_of(rows[-1][4])] if rows else [0, 0]
    hashes = sorted({_hash(row[1]) for row in rows})
    return BlockPlace(
        offset=offset,
        length=length,
        first=group[0].first,
        last=group[-1].last,
        events=len(rows),
        first_ns=times[0],
        last_ns=times[1],
        seal=seal,
        streams=b"".join(value.to_bytes(4, "big") for value in hashes),
    )


def _commits(columns: _Columns, trusting: bool) -> Iterator[Commit]:
    rows = _rows(columns)
    proven = _proven(columns) if not trusting else [(first, last, b"") for first, last in _spans(columns)]
    at = 0
    for first, last, leaves in proven:
        begin = at
        while at < len(rows) and rows[at][0] <= last:
            at += 1
        yield Commit(first, last, rows[begin:at], leaves)


def _spans(columns: _Columns) -> list[tuple[int, int]]:
    ends = list(itertools.accumulate(columns.sizes, initial=columns.first - 1))
    return [(before + 1, last) for before, last in itertools.pairwise(ends)]


def _proven(columns: _Columns) -> list[tuple[int, int, bytes]]:
    """Each commit's positions and leaves."""
    leaves = _leaves(columns)
    if len(leaves) != sum(columns.sizes):
        raise ValueError("events are missing")
    offset = columns.first
    return [(first, last, b"".join(leaves[first - offset : last + 1 - offset])) for first, last in _spans(columns)]


def _leaves(columns: _Columns) -> list[bytes]:
    """Of all positions in order, also of events that are left out. No row is made: hashing is most of a verification,
    and shall stay most of it."""
    streams = [name.encode() for name in columns.stream_names]
    topics = [name.encode() for name in columns.topic_names]
    left_out, known = chain.split_leaves(columns.leaves), 0
    states, start = columns.states, 0
    leaves: list[bytes] = []
    columns_of_rows = zip(
        columns.present, columns.streams, columns.versions, columns.topics, columns.lengths, strict=True
    )
    for distance, stream, version, topic, length in columns_of_rows:
        if distance > 1:
            leaves += left_out[known : known + distance - 1]
            known += distance - 1
        leaves.append(chain.leaf(streams[stream], version, topics[topic], states[start : start + length]))
        start += length
    return [*leaves, *left_out[known:]]


def _rows(columns: _Columns) -> list[Row]:
    rows: list[Row] = []
    position, start = columns.first - 1, 0
    names, topics, states = columns.stream_names, columns.topic_names, columns.states
    columns_of_rows = zip(
        columns.present, columns.streams, columns.versions, columns.topics, columns.lengths, strict=True
    )
    for distance, stream, version, topic, length in columns_of_rows:
        position += distance
        rows.append((position, names[stream], version, topics[topic], states[start : start + length]))
        start += length
    return rows


def _hash(stream: str) -> int:
    return crc32(stream.encode())


class _Hashes:
    """Sorted 32-bit numbers in bytes, as a container."""

    def __init__(self, packed: bytes) -> None:
        self._numbers = struct.unpack(f">{len(packed) // 4}I", packed)

    def __contains__(self, number: int) -> bool:
        at = bisect_left(self._numbers, number)
        return at < len(self._numbers) and self._numbers[at] == number


@functools.lru_cache(maxsize=1024)
def _hashes(packed: bytes) -> _Hashes:
    return _Hashes(packed)


def _compressed(data: bytes) -> bytes:
    import zstandard  # here: an engine without old history never needs it

    return zstandard.ZstdCompressor(level=LEVEL, write_checksum=True).compress(data)


def _decompressed(data: bytes, path: Path) -> bytes:
    import zstandard

    try:
        return zstandard.ZstdDecompressor().decompress(data)
    except zstandard.ZstdError as error:
        raise SegmentError(f"{path}: {error}") from error
