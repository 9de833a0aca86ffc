"""Layers unpacked early: while the rest of their archive still comes, and nobody knows yet what they lie on.

An archive tells at its end which of its members are layers, of which image and in which order; receiving it keeps one
core busy, and unpacking another. So what looks like a layer is unpacked as soon as it is whole. The layer store takes
the tree when it is asked for the layer; a tree that nobody wanted, one with another DiffID than the image says, and one
that could not be made are as if they had never been: the layer store finds out by itself what is wrong.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Protocol

import trio

from engine.aggregates.values.ids import DiffID, Digest, short
from engine.drivers.linux.storage.errors import as_port_error
from engine.drivers.linux.storage.places import Places
from engine.drivers.linux.storage.trees import Tree, Trees
from engine.errors import PortError

GUESSES_MAX = 127
"""As many layers as moby allows an image. Files stay open until they have been read."""


class Guess(Protocol):
    def __call__(self, path: str, blob: Digest, *, plain: bool) -> None:
        """A file that has this digest looks like a layer. It may be renamed at once. plain: not compressed."""


class _Guess:
    def __init__(self) -> None:
        self.ended = trio.Event()
        self.diff_id = ""
        self.tree: Tree | None = None


class EarlyLayers:
    """The trees of all archives on their way, by the digest of their blob. at_most: of one archive."""

    def __init__(self, places: Places, trees: Trees, *, at_most: int = GUESSES_MAX) -> None:
        self._places = places
        self._trees = trees
        self._at_most = at_most
        self._guesses: dict[Digest, _Guess] = {}

    @asynccontextmanager
    async def of_archive(self) -> AsyncIterator[Guess]:
        """How to tell of a file that looks like a layer; what comes of it is good for the length of the block."""
        failure: Exception | None = None
        async with trio.open_nursery() as nursery:
            try:
                yield partial(self._begin, nursery)
            except Exception as error:
                failure = error  # raised outside: a nursery would wrap it in a group.
            finally:
                nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def take(self, blob: Digest, diff_id: DiffID) -> Tree | None:
        """The tree of a blob, from now on the caller's; None where there is none with this DiffID. Waits for one that
        is being made."""
        guess = self._guesses.get(blob)
        if guess is None:
            return None
        await guess.ended.wait()
        if guess.diff_id != diff_id:
            return None
        tree, guess.tree = guess.tree, None
        return tree

    def _begin(self, nursery: trio.Nursery, path: str, blob: Digest, *, plain: bool) -> None:
        """A blob that was here before most likely has its layer, too."""
        if (
            len(nursery.child_tasks) >= self._at_most
            or blob in self._guesses
            or os.path.exists(self._places.blob(blob))
        ):
            return
        with as_port_error("unpack"):
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # now: it will be renamed.
        guess = self._guesses[blob] = _Guess()
        nursery.start_soon(partial(self._make, guess, file, blob, plain=plain), name=f"early layer {short(blob)}")

    async def _make(self, guess: _Guess, file: int, blob: Digest, *, plain: bool) -> None:
        try:
            try:
                guess.tree = tree = await self._trees.make(file, hashed=not plain)
                guess.diff_id = str(blob) if plain else tree.diff_id
            except PortError:
                return  # who asks for the layer will hear the reason.
            finally:
                os.close(file)
                guess.ended.set()
            await trio.sleep_forever()
        finally:
            del self._guesses[blob]
            if guess.tree is not None:
                self._places.discard(guess.tree.directory)
