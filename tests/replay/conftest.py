"""A short history in a copied file, and somebody who asks `replay` about it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import trio

from replay.cli import main
from tests.support.story import tell


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    directory = tmp_path_factory.mktemp("story")
    marks = trio.run(tell, directory)
    # Only a copy of the one file is looked at: no keys, no views, no engine.
    copied = tmp_path_factory.mktemp("copied") / "events.db"
    shutil.copyfile(directory / "events.db", copied)
    return copied, marks


class Replay:
    def __init__(self, path: Path, marks: dict[str, int], capsys: pytest.CaptureFixture[str]) -> None:
        self.path = path
        self.marks = marks
        self._capsys = capsys
        self.code = 0
        self.complaint = ""

    def __call__(self, *question: str) -> str:
        self.code = main(["--log", str(self.path), *question])
        out, self.complaint = self._capsys.readouterr()
        return out

    def json(self, *question: str):
        return json.loads(self(*question, "--json"))

    def lines(self, *question: str):
        return [json.loads(line) for line in self(*question, "--json").splitlines()]


@pytest.fixture
def replay(story: tuple[Path, dict[str, int]], capsys: pytest.CaptureFixture[str]) -> Replay:
    return Replay(*story, capsys)
