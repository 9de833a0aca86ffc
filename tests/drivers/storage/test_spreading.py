"""Trees begin away from where much was deleted a moment ago."""

import os
from itertools import count
from pathlib import Path

import pytest

from engine.drivers.linux.storage import spreading
from engine.drivers.linux.storage.spreading import (
    FORGOTTEN_AFTER_S,
    MANY,
    PLACES_MAX,
    REGION_INODES,
    Deletions,
    Spreading,
)
from engine.drivers.linux.storage.unpack import remove_tree


class Ground:
    """Directories whose regions the test says; a clock that stands still."""

    def __init__(self, root: Path, regions: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.now = root, 1.0
        self.spreading = Spreading(lambda: self.now)
        self._names = map(str, count())
        monkeypatch.setattr(spreading, "region_of", lambda path: regions[int(os.path.basename(path))])

    def make(self) -> str:
        made = self.spreading.make(lambda: str(self.root / next(self._names)), 0o710)
        assert os.listdir(self.root) == [os.path.basename(made)]
        os.rmdir(made)
        return os.path.basename(made)


def test_a_tree_begins_at_the_first_place_away_from_what_was_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ground = Ground(tmp_path, [7, 7, 8, 9, 7], monkeypatch)
    assert ground.make() == "0"
    ground.spreading.deleted([7, 8])
    assert ground.make() == "3"
    ground.now += FORGOTTEN_AFTER_S
    assert ground.make() == "4"


def test_where_everything_was_deleted_a_tree_begins_where_it_is_longest_ago(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ground = Ground(tmp_path, [1, 2, *[1] * (PLACES_MAX - 2)], monkeypatch)
    ground.spreading.deleted([2])
    ground.now += 1
    ground.spreading.deleted([1])
    assert ground.make() == "1"


def test_a_place_that_cannot_be_made_leaves_none_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ground = Ground(tmp_path, [1], monkeypatch)
    ground.spreading.deleted([1])
    paths = iter((str(tmp_path / "0"), str(tmp_path / "missing" / "1")))
    with pytest.raises(FileNotFoundError):
        ground.spreading.make(lambda: next(paths), 0o710)
    assert os.listdir(tmp_path) == []


def test_only_regions_of_many_deletions_count() -> None:
    deletions = Deletions()
    for number in range(MANY):
        deletions.note(3 * REGION_INODES + number)
        if number:
            deletions.note(5 * REGION_INODES + number)
    assert deletions.regions() == [3]


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
