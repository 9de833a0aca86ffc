"""WIN-03: a signed head that was kept elsewhere shows that a log was rewritten, or cut short, since."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

import pytest
import trio

from engine import chain, erase
from engine.aggregates.values.sealed import Sealed
from engine.entropy import SystemEntropy
from engine.errors import PortError
from engine.vault import Vault
from replay.cli import main
from replay.verify import verify


@pytest.fixture
def log(story: tuple[Path, dict[str, int]], tmp_path: Path) -> Path:
    return Path(shutil.copy(story[0], tmp_path / "events.db"))


class Asked:
    def __init__(self, log: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._log, self._capsys = log, capsys
        self.complaint = ""

    def __call__(self, *words: str) -> tuple[int, str]:
        code = main(["--log", str(self._log), *words])
        out, self.complaint = self._capsys.readouterr()
        return code, out


@pytest.fixture
def ask(log: Path, capsys: pytest.CaptureFixture[str]) -> Asked:
    return Asked(log, capsys)


def rewrite(log: Path) -> None:
    """Change one event and compute the whole chain anew, as somebody would who knows how."""
    with sqlite3.connect(log) as database:
        database.execute("UPDATE stored_events SET state=replace(state, 'uid=1000', 'uid=1001') WHERE rowid=9")
        state = bytes(database.execute("SELECT CAST(state AS BLOB) FROM stored_events WHERE rowid=9").fetchone()[0])
        database.execute("UPDATE stored_events SET state=? WHERE rowid=9", (state,))
        rows = database.execute(
            "SELECT originator_id, originator_version, topic, state FROM stored_events ORDER BY rowid"
        ).fetchall()
        seal = chain.GENESIS
        for first, last in database.execute("SELECT first, last FROM chain ORDER BY first").fetchall():
            leaves = b"".join(
                chain.leaf(stream.encode(), version, topic.encode(), bytes(state))
                for stream, version, topic, state in rows[first - 1 : last]
            )
            seal = chain.seal(seal, first, last, leaves)
            database.execute("UPDATE chain SET leaves=?, seal=? WHERE first=?", (leaves, seal, first))
    database.close()


def test_a_head_kept_elsewhere_proves_a_rewrite(log: Path, ask: Asked, tmp_path: Path) -> None:
    kept = tmp_path / "heads"
    kept.write_text("# one a day\n" + ask("head")[1])
    assert ask("verify", "--head", str(kept))[0] == 0
    rewrite(log)
    assert verify(log).whole, "without a witness it is another log, and a whole one"
    code, out = ask("verify", "--head", str(kept))
    assert code == 1
    assert "rewritten" in out


def test_a_head_kept_elsewhere_proves_a_lost_tail(log: Path, ask: Asked) -> None:
    head = ask("head")[1].strip()
    with sqlite3.connect(log) as database:
        first = database.execute("SELECT MAX(first) FROM chain").fetchone()[0]
        database.execute("DELETE FROM stored_events WHERE rowid>=?", (first,))
        database.execute("DELETE FROM chain WHERE first=?", (first,))
    database.close()
    code, out = ask("verify", "--head", head)
    assert code == 1
    assert "tail" in out


def test_a_head_says_who_signed_it_and_a_changed_one_is_refused(ask: Asked, tmp_path: Path) -> None:
    told = json.loads(ask("head", "--json")[1])
    head, signer = told["head"], told["signer"]
    assert ask("verify", "--head", head, "--signer", signer)[0] == 0
    assert f"signed by {signer}" in " ".join(ask("verify", "--head", head)[1].split())
    position = head.split(":")[2]
    assert ask("verify", "--head", head.replace(f":{position}:", f":{int(position) - 1}:", 1))[0] == 2
    assert "signature" in ask.complaint
    other = ask("head", "--key", str(tmp_path / "another.pem"))[1].strip()
    assert ask("verify", "--head", other, "--signer", signer)[0] == 2
    assert ask("verify", "--head", f"{position}:{head.split(':')[3]}", "--signer", signer)[0] == 2
    assert "no signed head" in ask.complaint


def test_the_key_is_private_made_once_and_never_replaced(log: Path, ask: Asked) -> None:
    assert ask("head")[1].split(":")[5] == ask("head")[1].split(":")[5]
    key = log.with_name("head-key.pem")
    assert key.stat().st_mode & 0o777 == 0o600
    key.write_text("no key")
    assert ask("head")[0] == 2
    assert key.read_text() == "no key"


def test_the_head_of_a_damaged_log_is_not_signed(log: Path, ask: Asked) -> None:
    with sqlite3.connect(log) as database:
        database.execute("UPDATE stored_events SET originator_version=77 WHERE rowid=9")
    database.close()
    assert ask("head") == (1, "")


def test_an_erased_key_takes_the_values_with_it_and_the_log_still_proves_itself(
    log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """WIN-15."""
    root, owner, other = log.parent, "container:" + "ab" * 32, "container:" + "cd" * 32

    async def within(work):
        async with Vault(root / "keys.db", SystemEntropy()).running() as vault:
            return await work(vault)

    async def seal(vault: Vault) -> tuple[Sealed, Sealed]:
        return await vault.seal(owner, b"PASSWORD=x"), await vault.seal(other, b"PASSWORD=y")

    async def read(vault: Vault) -> bytes:
        with pytest.raises(PortError, match="erased"):
            vault.open(gone)
        return vault.open(left)

    gone, left = trio.run(within, seal)
    assert erase.main([owner.removeprefix("container:"), "--data-root", str(root)]) == 0
    assert trio.run(within, read) == b"PASSWORD=y"
    assert verify(log).whole
    assert erase.main([owner, "--data-root", str(root)]) == 1
    assert "has no key" in capsys.readouterr().err
