"""No secret in the clear: not in any file of the engine, not in a process title, not in the debug log."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.engine import Engine, running_engine
from tests.support.images import image_of, layer_of
from tests.support.outside import standing_in
from tests.support.registry import running_registry

pytestmark = pytest.mark.root

# In three parts each, so that no title of a test runner's process holds one by accident.
ENVIRONMENT = "-".join(("environment", "value", "6b1d"))
ARGUMENT = "-".join(("exec", "argument", "93fa"))
EXEC_ENVIRONMENT = "-".join(("exec", "environment", "27c0"))
PASSWORD = "-".join(("registry", "password", "e55a"))
SECRETS = (ENVIRONMENT, ARGUMENT, EXEC_ENVIRONMENT, PASSWORD)


@pytest.fixture
def engine() -> Iterator[Engine]:
    with running_engine("-D") as engine:
        yield engine


def forms(secret: str) -> tuple[bytes, ...]:
    """As it is, and as base64 shows it at each of the three alignments, without the ends that neighbours change."""
    found = [secret.encode()]
    for shift in range(3):
        found.append(base64.b64encode(b"\0" * shift + secret.encode())[4:-4])
    return tuple(found)


def use_secrets(engine: Engine, registry: str) -> None:
    script = "while true; do sleep 1; done"
    engine.out("run", "-d", "--name", "holder", "-e", f"SECRET={ENVIRONMENT}", "busybox", "sh", "-c", script)
    exec_output = engine.out("exec", "-e", f"TOKEN={EXEC_ENVIRONMENT}", "holder", "sh", "-c", f"test {ARGUMENT} && env")
    assert ENVIRONMENT in exec_output
    assert EXEC_ENVIRONMENT in exec_output
    engine.out("exec", "-d", "holder", "sleep", "1000", ARGUMENT, check=False)
    engine.out("run", "--name", "ended", "-e", f"SECRET={ENVIRONMENT}", "busybox", "true")
    engine.cli("run", "--name", "failed", "-e", f"SECRET={ENVIRONMENT}", "busybox", "/missing", check=False)
    engine.cli("exec", "holder", "/missing", ARGUMENT, check=False)
    credentials = {"username": "user", "password": PASSWORD, "serveraddress": registry}
    header = base64.urlsafe_b64encode(json.dumps(credentials).encode()).decode()
    for password in (header, base64.urlsafe_b64encode(json.dumps({**credentials, "username": "x"}).encode()).decode()):
        engine.request("POST", f"/images/create?fromImage={registry}/thing&tag=latest", **{"X-Registry-Auth": password})
    engine.request("POST", "/auth", credentials)


def leaking_files(engine: Engine) -> list[str]:
    found = []
    for root in (engine.data_root, engine.exec_root):
        for place, _, names in os.walk(root):
            for name in names:
                path = Path(place) / name
                if path.is_file():
                    data = path.read_bytes()
                    found += [f"{path}: {secret}" for secret in SECRETS if any(form in data for form in forms(secret))]
    return found


def test_no_secret_stands_in_a_file_a_process_title_or_the_debug_log(engine: Engine, tmp_path: Path) -> None:
    with standing_in(engine.name), running_registry(tmp_path, users={"user": PASSWORD}) as registry:
        registry.push("thing", "latest", image_of(layer_of({"file": b"content"})))
        use_secrets(engine, registry.address)
        assert f"{registry.address}/thing" in engine.out("images")  # the password was used
        assert leaking_files(engine) == []  # beside a living engine: write-ahead logs and all
        pids = [engine.process.pid if engine.process else 0, *engine.supervisors()]
        for pid in pids:
            title = Path(f"/proc/{pid}/cmdline").read_bytes()
            assert not any(form in title for secret in SECRETS for form in forms(secret)), pid
        engine.kill()
        assert leaking_files(engine) == []  # as a crash leaves it
        engine.start()
        assert ENVIRONMENT in engine.out("exec", "holder", "env")  # the keys outlive the crash
        engine.stop()
        assert leaking_files(engine) == []
    log = engine.log.read_bytes()
    assert not [secret for secret in SECRETS if any(form in log for form in forms(secret))]


def test_the_values_of_a_removed_container_can_not_be_opened_any_more(engine: Engine) -> None:
    engine.out("run", "--name", "gone", "-e", f"SECRET={ENVIRONMENT}", "busybox", "true")
    owner = f"container:{engine.json('/containers/gone/json')['Id']}".encode()
    keys = engine.data_root / "keys.db"
    assert any(owner in path.read_bytes() for path in keys.parent.glob("keys.db*"))
    engine.out("rm", "gone")
    engine.kill()  # before or after the erasure
    engine.start()
    engine.wait_for(lambda: not any(owner in path.read_bytes() for path in keys.parent.glob("keys.db*")))
