"""Where the commands of a what-if are given: the world as it is by then, its host, and what else is known."""

from __future__ import annotations

import hashlib
from pathlib import Path

from engine.aggregates.container.state import ContainerState
from engine.aggregates.decider import Command
from engine.aggregates.image import ImageState
from engine.aggregates.network import NetworkState
from engine.aggregates.values.config import ContainerConfig
from engine.aggregates.values.manifest import parse_image_config
from replay.fork.branch import Branch
from replay.fork.host import Host

Transaction = tuple[Command, ...]


class Beside:
    """What lies beside a log in its data root, and not beside a copy of it."""

    def __init__(self, data_root: Path) -> None:
        self.data_root = data_root
        self.notes: dict[str, None] = {}
        """What could not be known, and what an engine would have warned of, in sentences: for the answer."""

    def image_config(self, image: ImageState) -> ContainerConfig | None:
        """What containers inherit from an image, from the same blob that the engine reads; None when it is not here (or
        is not what it was)."""
        if image.config is None:
            return None
        digest = image.config.digest.partition(":")[2]
        try:
            body = (self.data_root / "content" / "sha256" / digest).read_bytes()
        except OSError:
            return None
        return parse_image_config(body).config if hashlib.sha256(body).hexdigest() == digest else None


class Scene:
    """One command, as it is given. at: the time."""

    def __init__(self, branch: Branch, host: Host, beside: Beside, at: int, words: str) -> None:
        self.branch = branch
        self.host = host
        self.beside = beside
        self.at = at
        self._seed = f"{branch.world.position} {words}"
        self._drawn = 0

    def hex_id(self) -> str:
        """A new one with each call: the same for the same command in the same place."""
        self._drawn += 1
        return hashlib.sha256(f"{self._seed} {self._drawn}".encode()).hexdigest()

    def below(self, bound: int) -> int:
        """A number under a bound, as good as random."""
        return int(self.hex_id(), 16) % bound

    @property
    def data_root(self) -> str:
        """The engine's, by where containers have their volumes; that of the log when none has any."""
        for state in self.branch.world.living("container"):
            for point in state.mounts:
                place = f"/volumes/{point.name}/_data"
                if point.type == "volume" and point.source.endswith(place):
                    return str(point.source.removesuffix(place))
        return str(self.beside.data_root)

    def container(self, word: str) -> ContainerState:
        """Raises NotFoundError."""
        state = self.branch.world.states[self.branch.world.find(word, ("container",))]
        assert isinstance(state, ContainerState)
        return state

    def network(self, word: str) -> NetworkState:
        """Raises NotFoundError."""
        state = self.branch.world.states[self.branch.world.find(word, ("network",))]
        assert isinstance(state, NetworkState)
        return state
