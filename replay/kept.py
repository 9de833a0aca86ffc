"""`replay why IMAGE` and `why LAYER`: how it came, who has used it, and why it is still here or gone.

Owns: the story of an image, and of a blob or layer by its digest (of the blob, its DiffID or its ChainID). Nothing
counts references: what an image, a container or a lease names is kept, and what none names is discarded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set

from engine.aggregates import content, image, transfer
from engine.aggregates.decider import Event, Recorded
from engine.aggregates.image import ImageState, ImageStatus
from replay import words
from replay.plain import clock_time
from replay.reader import LogReader
from replay.timeline import Filter, timeline
from replay.why import Story, steps
from replay.world import NotFoundError, World, familiar

DIGEST_CHARACTERS_MIN = 6
_ENDS = (image.ImageRemoved, transfer.TransferDone, transfer.TransferFailed, transfer.LeaseReleased)


def why_image(reader: LogReader, world: World, stream: str) -> Story:
    events = tuple(timeline(reader, Filter(stream=stream, last=world.position)))
    own = [recorded for recorded in events if recorded.stream == stream]
    label = world.label(stream)
    return Story(stream=stream, label=label, steps=steps(events), verdict=_of_image(world, own, world.states[stream]))


def why_content(reader: LogReader, world: World, word: str) -> Story:
    """The story of a blob or layer. Raises NotFoundError where no image and no transfer has ever named it."""
    digest = _find(reader, world, word)
    streams: set[str] = set()
    told: list[Recorded] = []
    same = {digest}
    for recorded in reader.events(upto=world.position):
        event = recorded.event
        if isinstance(event, image.ImageAdded):
            same |= {layer.chain_id for layer in event.layers if layer.diff_id == digest}
        if same & mentioned(event):
            streams.add(recorded.stream)
            told.append(recorded)
        elif recorded.stream in streams and isinstance(event, (*_ENDS, *_TURNS)):
            told.append(recorded)
    verdict = _of_content(world, digest, told, same)
    return Story(stream=digest, label=f"content {digest}", steps=steps(told), verdict=verdict)


_TURNS = (image.ImageRemoveRequested, transfer.TransferInterrupted)


def mentioned(event: Event) -> frozenset[str]:
    """The content that an event names."""
    match event:
        case image.ImageAdded():
            parts = [part.digest for part in (event.config, event.manifest) if part is not None]
            layers = (each for layer in event.layers for each in (layer.diff_id, layer.chain_id, layer.blob.digest))
            return frozenset((*parts, *layers))
        case image.ImageIndexed():
            return frozenset((event.index.digest, event.manifest.digest))
        case image.LayerCompressed():
            return frozenset((event.layer, event.blob.digest))
        case image.ImageRemoved() | content.ContentDiscarded() | transfer.ContentLeased():
            return frozenset((*event.blobs, *event.layers))
        case _:
            return frozenset()


def _find(reader: LogReader, world: World, word: str) -> str:
    wanted = word.removeprefix("sha256:")
    found: set[str] = set()
    if len(wanted) >= DIGEST_CHARACTERS_MIN:
        for recorded in reader.events(upto=world.position):
            found |= {each for each in mentioned(recorded.event) if each.removeprefix("sha256:").startswith(wanted)}
    if len(found) > 1:
        raise NotFoundError(f"{word!r} is the beginning of {len(found)} digests: {', '.join(sorted(found)[:4])}")
    if not found:
        raise NotFoundError(f"the log has nothing that is called {word!r}")
    return found.pop()


def _of_image(world: World, own: Sequence[Recorded], state: ImageState) -> str:
    came = next((each for each in reversed(own) if isinstance(each.event, image.ImageAdded)), None)
    asked = next((each for each in reversed(own) if isinstance(each.event, image.ImageRemoveRequested)), None)
    if state.status is ImageStatus.READY and came is not None:
        names = ", ".join(map(familiar, sorted(state.references))) or "no name"
        users = sum(one.image_id == state.image_id for one in world.living("container"))
        on = f" Containers on it: {users}." if users else ""
        since = f"{clock_time(came.time_ns)} (@{came.position})"
        return f"It is here since {since}, with {names}: nobody has removed it.{on}"
    if asked is None:
        return "It was never here."
    who = f"{words.actor(asked.cause.actor)} had it removed (@{asked.position})"
    if state.status is ImageStatus.REMOVING:
        return f"It goes: {who}, and what only it used is being discarded."
    gone = own[-1].event
    layers, blobs = (gone.layers, gone.blobs) if isinstance(gone, image.ImageRemoved) else ((), ())
    went = f"{len(layers)} layers and {len(blobs)} blobs"
    return f"It is gone: {who}. With it went {went}; others had a use for the rest."


def _of_content(world: World, digest: str, told: Sequence[Recorded], same: Set[str]) -> str:
    """same: what the digest is called by events, its own name and the ChainIDs of a layer known by its DiffID."""
    users = list(_users(world, digest))
    if users:
        return f"It is kept by {', '.join(users)}."
    gone = next((each for each in reversed(told) if same & _discarded(each.event)), None)
    went = f"It was discarded @{gone.position}" if gone is not None else ""
    if gone is not None and isinstance(gone.event, content.ContentDiscarded):
        went += f"; {gone.event.why}"
    ends = [each for each in told if isinstance(each.event, _ENDS)]
    if not ends:
        return f"Nothing has ever used it. {went}." if went else "Nothing has used it yet."
    last = ends[-1]
    who = words.actor(last.cause.actor)
    label = world.label(last.stream)
    story = f"Nothing has a use for it since @{last.position}: {label} {words.sentence(last)} ({who})."
    if gone is None or gone.position < last.position:
        return f"{story} The next collection discards it."
    if gone is last:
        return f"{story} With that it was discarded."
    return f"{story} {went}."


def _discarded(event: Event) -> frozenset[str]:
    """What went with an event."""
    return mentioned(event) if isinstance(event, image.ImageRemoved | content.ContentDiscarded) else frozenset()


def _users(world: World, digest: str) -> Iterator[str]:
    chains = set()
    for state in world.living("image"):
        own = {each for layer in state.layers for each in (layer.diff_id, layer.chain_id, layer.blob.digest)}
        if digest in own | state.blobs:
            chains |= {layer.chain_id for layer in state.layers if digest in (layer.diff_id, layer.chain_id)}
            yield world.label(f"image:{state.image_id}")
    for state in world.living("container"):
        if (chains | {digest}) & set(state.layers):
            yield world.label(f"container:{state.container_id}")
    for state in world.living("transfer"):
        if digest in state.blobs | state.layers:
            until = f" until {clock_time(state.kept_until)}" if state.kept_until else ""
            of = f" of {familiar(state.reference)}" if state.reference else ""
            yield f"the {state.status.value} {state.kind}{of}{until}"
