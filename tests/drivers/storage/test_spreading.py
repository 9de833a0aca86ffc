"""Trees begin away from where much was deleted a moment ago."""

import os
from collections.abc import Callable, Iterator
from itertools import chain, count, repeat
from pathlib import Path

import pytest

from engine.drivers.linux.storage import spreading
from engine.drivers.linux.storage.spreading import (
    FORGOTTEN_AFTER_S,
    MANY,
    REGION_INODES,
    TRIES_MAX,
    Deletions,
    Spreading,
)
from engine.drivers.linux.storage.unpack import remove_tree


class Ground:
    """A disk whose regions the test says: of each new ground in turn, and of a tree that of its ground, unless the
    region is full. The clock stands still."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1.0
        self.full: set[int] = set()
        self.coming: Iterator[int] = repeat(0)
        self.grounds, self._trees = root / "grounds", root / "trees"
        self.grounds.mkdir()
        self._trees.mkdir()
        self._names = map(str, count())
        self._regions: dict[str, int] = {}
        self.spreading = Spreading(self._new_ground, lambda: self.now)
        monkeypatch.setattr(spreading, "region_of", self._region_of)

    def _new_ground(self) -> str:
        path = str(self.grounds / next(self._names))
        self._regions[path] = next(self.coming)
        return path

    def _region_of(self, path: str) -> int:
        if path in self._regions:
            return self._regions[path]
        self.last = self._regions[os.path.dirname(path)]
        return self.last + 1 if self.last in self.full else self.last

    def make(self) -> int:
        """The region of one more tree."""
        path = self._trees / next(self._names)
        self.spreading.make(str(path), 0o710)
        assert path.is_dir() and path.stat().st_mode & 0o777 == 0o710
        assert not list(self.grounds.glob("*/*"))
        return self.last


@pytest.fixture
def ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ground:
    return Ground(tmp_path, monkeypatch)


def test_trees_share_a_region_until_much_is_deleted_there(ground: Ground) -> None:
    ground.coming = iter([7, 7, 7, 8])
    assert [ground.make(), ground.make()] == [7, 7]
    ground.spreading.deleted({7: MANY - 1})
    assert ground.make() == 7
    ground.spreading.deleted({7: 1})
    assert [ground.make(), ground.make()] == [8, 8]
    assert len(list(ground.grounds.iterdir())) == 2


def test_deletions_are_forgotten(ground: Ground) -> None:
    ground.coming = iter([7, 8])
    ground.make()
    ground.spreading.deleted({7: MANY, 8: MANY - 1})
    assert ground.make() == 8
    ground.now += FORGOTTEN_AFTER_S
    ground.spreading.deleted({8: MANY})
    assert ground.make() == 7


def test_a_full_region_is_left(ground: Ground) -> None:
    ground.coming = iter([7, 8])
    ground.make()
    ground.full = {7}
    ground.make()
    assert ground.make() == 8


def test_where_everything_was_deleted_a_tree_begins_where_least_was(ground: Ground) -> None:
    ground.coming = chain([1, 2, 3], repeat(1))
    ground.spreading.deleted({1: MANY + 2, 2: MANY, 3: MANY + 1})
    assert ground.make() == 2
    assert len(list(ground.grounds.iterdir())) == 3
    assert int(next(ground._names)) <= TRIES_MAX + 2


def test_a_ground_that_somebody_removed_is_made_again(ground: Ground) -> None:
    ground.make()
    for path in ground.grounds.iterdir():
        path.rmdir()
    ground.make()


def test_a_tree_that_cannot_be_made_leaves_nothing(ground: Ground, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ground.spreading.make(str(tmp_path / "missing" / "tree"), 0o710)
    assert [list(path.iterdir()) for path in ground.grounds.iterdir()] == [[]]


def test_a_place_without_room_for_a_ground_is_an_error(tmp_path: Path) -> None:
    paths: Callable[[], str] = (tmp_path / "missing" / "1").__str__
    with pytest.raises(FileNotFoundError):
        Spreading(paths).make(str(tmp_path / "tree"), 0o710)


def test_deleted_inodes_are_counted_by_region() -> None:
    deletions = Deletions()
    for inode in (3 * REGION_INODES, 4 * REGION_INODES - 1, 5 * REGION_INODES):
        deletions.note(inode)
    assert deletions.counts == {3: 2, 5: 1}


def test_who_removes_a_tree_is_told_each_inode_of_it(tmp_path: Path) -> None:
    (tmp_path / "tree" / "below").mkdir(parents=True)
    (tmp_path / "tree" / "below" / "file").touch()
    (tmp_path / "tree" / "link").symlink_to("/")
    expected = sorted(os.lstat(path).st_ino for path in (tmp_path / "tree").rglob("*"))
    told: list[int] = []
    directory = os.open(tmp_path, os.O_RDONLY)
    remove_tree(directory, b"tree", told.append)
    os.close(directory)
    assert sorted(told) == expected and len(told) == 3 and not os.listdir(tmp_path)
