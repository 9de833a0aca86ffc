"""Log drivers as users meet them: the real CLI, files as Docker's, stub servers on the engine's network."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import socket
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.support.engine import Engine
from tests.support.log_servers import certificate, log_server, socket_in
from tests.support.registry import tool

pytestmark = pytest.mark.root
TCP, UDP = socket.SOCK_STREAM, socket.SOCK_DGRAM


def folder(engine: Engine, name: str) -> Path:
    return engine.data_root / "containers" / engine.out("inspect", "-f", "{{.Id}}", name)


def run(
    engine: Engine, driver: str, options: dict[str, str], *command: str, name: str = "web", flags: str = ""
) -> None:
    """Run to the end, detached, and wait."""
    logs = [word for key, value in options.items() for word in ("--log-opt", f"{key}={value}")]
    engine.cli("run", "-d", "--name", name, *flags.split(), "--log-driver", driver, *logs, "busybox", *command)
    engine.cli("wait", name)


def refusal(engine: Engine, *arguments: str) -> str:
    done = engine.cli("run", "--rm", *arguments, "busybox", "true", check=False)
    assert done.returncode in (125, 127)  # the CLI reads "no such file" as a program that is not there
    return done.stderr


def give_line(engine: Engine) -> None:
    """An empty line of input."""
    engine.cli("exec", "web", "sh", "-c", "echo > /proc/1/fd/0")


def copier(engine: Engine) -> int:
    """The supervisor's child among its processes."""
    pids = engine.supervisors()
    (found,) = [pid for pid in pids if int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) in pids]
    return found


def test_json_file_lines_carry_what_was_asked_for_and_the_event_log_does_not(engine: Engine) -> None:
    """LOG-01, LOG-08"""
    options = {"labels": "tier", "labels-regex": "^com[.]", "env": "STAGE", "env-regex": "^SEC", "tag": "{{.Name}}!"}
    run(engine, "json-file", options, "echo", "hi", flags="--label tier=a --label com.x=b -e STAGE=c -e SECRET=hush")
    path = Path(engine.out("inspect", "-f", "{{.LogPath}}", "web"))
    (entry,) = [json.loads(line) for line in path.read_text().splitlines()]
    assert entry["attrs"] == {"tier": "a", "com.x": "b", "STAGE": "c", "SECRET": "hush", "tag": "web!"}
    assert engine.out("logs", "--details", "web") == "SECRET=hush,STAGE=c,com.x=b,tag=web%21,tier=a hi"
    for file in engine.data_root.glob("*.db*"):
        assert b"hush" not in file.read_bytes()


def test_rotated_files_are_compressed_and_read_back(engine: Engine) -> None:
    """LOG-01"""
    run(engine, "json-file", {"max-size": "50k", "max-file": "20", "compress": "true"}, "seq", "1", "5000")
    files = sorted(path.name for path in folder(engine, "web").glob("*-json.log*"))
    assert any(name.endswith(".gz") for name in files)
    assert engine.out("logs", "web") == "\n".join(map(str, range(1, 5001)))
    assert engine.out("logs", "--tail", "3000", "web") == "\n".join(map(str, range(2001, 5001)))


def test_a_local_log_is_read_in_every_way(engine: Engine) -> None:
    """LOG-02, LOG-07, CTR-27"""
    script = "echo one; echo two >&2; head -c 40000 /dev/zero | tr '\\0' x; echo; printf last"
    run(engine, "local", {"labels": "tier", "max-size": "30k"}, "sh", "-c", script, flags="--label tier=a")
    done = engine.cli("logs", "web")
    assert (done.stdout, done.stderr) == ("one\n" + "x" * 40000 + "\nlast", "two\n")
    assert engine.out("logs", "--details", "--tail", "1", "web") == "tier=a last"
    assert re.fullmatch(r"\d{4}-\S+Z last", engine.out("logs", "-t", "-n", "1", "web"))
    assert engine.out("logs", "--since", "1h", "--until", "1m", "web") == ""
    assert engine.out("logs", "--since", "1h", "web").startswith("one")
    assert engine.out("inspect", "-f", "{{.LogPath}}", "web") == ""
    kept = folder(engine, "web") / "local-logs"
    assert sorted(path.name for path in kept.iterdir()) == ["container.log", "container.log.1.gz"]
    assert gzip.decompress((kept / "container.log.1.gz").read_bytes())[4:12] == b"\x0a\x06stdout"


def test_following_a_local_log_goes_through_rotations_to_the_end(engine: Engine) -> None:
    """LOG-02, LOG-07"""
    options = ["--log-driver", "local", "--log-opt", "max-size=20k", "--log-opt", "max-file=200"]
    script = "seq 1 100; read go; seq 101 12000"
    engine.cli("run", "-di", "--name", "web", *options, "busybox", "sh", "-c", script)
    command = [tool("docker"), "logs", "-f", "web"]
    with subprocess.Popen(command, env=engine.environment, stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        first = [following.stdout.readline().strip() for _ in range(100)]
        give_line(engine)
        rest = following.stdout.read().split()
    assert first + rest == [str(number) for number in range(1, 12001)]


def test_none_keeps_nothing_and_says_so(engine: Engine) -> None:
    """LOG-03, CTR-27"""
    run(engine, "none", {}, "echo", "hi")
    status, body = engine.request("GET", "/containers/web/logs?stdout=1")
    assert (status, json.loads(body)["message"]) == (501, "configured logging driver does not support reading")


def test_unknown_drivers_options_and_tags_are_refused_in_dockers_words(engine: Engine) -> None:
    """LOG-03, LOG-08"""
    assert "logger: no log driver named 'awslogs' is registered" in refusal(engine, "--log-driver", "awslogs")
    assert "unknown log opt 'x' for log driver local" in refusal(engine, "--log-driver", "local", "--log-opt", "x=1")
    words = refusal(engine, "--log-opt", "tag={{.Colour}}")
    assert "failed to create task for container: failed to initialize logging driver: template: log-tag:1:2:" in words
    assert "can't evaluate field Colour in type *logger.Info" in words
    info = engine.json("/info")
    assert info["Plugins"]["Log"] == ["fluentd", "gelf", "journald", "json-file", "local", "syslog"]
    assert info["LoggingDriver"] == "json-file"


@pytest.mark.parametrize("network", ["tcp", "udp"])
def test_syslog_gets_every_line_and_docker_logs_reads_the_cache(engine: Engine, network: str) -> None:
    """LOG-04, LOG-06"""
    with log_server(socket_in(engine.name, TCP if network == "tcp" else UDP)) as server:
        options = {
            "syslog-address": f"{network}://127.0.0.1:{server.port}",
            "syslog-format": "rfc3164",
            "syslog-facility": "local1",
            "tag": "{{.ImageName}}/{{.Name}}",
        }
        run(engine, "syslog", options, "sh", "-c", "for i in $(seq 1 200); do echo line $i; done; echo bad >&2")
        server.until(lambda server: b"bad" in server.data and b"line 200" in server.data)
    lines = server.data.decode().splitlines()
    assert len(lines) == 201
    form = re.compile(r"<1(42|39)>\w{3} [ \d]\d [\d:]{8} \S+ busybox/web\[\d+\]: (line \d+|bad)")
    assert all(map(form.fullmatch, lines))
    assert [line[-5:] for line in lines if line.startswith("<139>")] == [": bad"]
    assert engine.out("logs", "--tail", "3", "web") in ("line 199\nline 200", "line 198\nline 199\nline 200")
    assert engine.out("inspect", "-f", "{{.LogPath}}", "web") == ""


def test_syslog_over_a_unix_socket(engine: Engine) -> None:
    """LOG-04"""
    path = str(engine.root / "syslog.sock")
    with socket.socket(socket.AF_UNIX, UDP) as sock:
        sock.bind(path)
        sock.settimeout(20)
        run(engine, "syslog", {"syslog-address": f"unixgram://{path}"}, "echo", "hi")
        assert re.fullmatch(rb"<30>\w{3} [ \d]\d [\d:]{8} [0-9a-f]{12}\[\d+\]: hi\n", sock.recv(1000))
    os.unlink(path)


def test_syslog_over_tls_checks_the_server(engine: Engine) -> None:
    """LOG-04"""
    cert, context = certificate(engine.root)
    with log_server(socket_in(engine.name, TCP), tls=context) as server:
        address = f"syslog-address=tcp+tls://127.0.0.1:{server.port}"
        words = refusal(engine, "--log-driver", "syslog", "--log-opt", address)
        assert "failed to initialize logging driver: tls: failed to verify certificate: x509:" in words
        options = {"syslog-address": address.partition("=")[2], "syslog-format": "rfc5424"}
        run(engine, "syslog", {**options, "syslog-tls-ca-cert": str(cert)}, "seq", "1", "500")
        server.until(lambda server: b" - 500\n" in server.data)
    data, texts = server.data, []
    while data:
        size, _, data = data.partition(b" ")
        texts.append(data[: int(size)].split()[-1])
        data = data[int(size) :]
    assert texts == [b"%d" % number for number in range(1, 501)]


def test_gelf_over_udp_and_tcp(engine: Engine) -> None:
    """LOG-04"""
    with log_server(socket_in(engine.name, UDP)) as udp, log_server(socket_in(engine.name, TCP)) as tcp:
        address = f"udp://127.0.0.1:{udp.port}"
        options = {"gelf-address": address, "env": "STAGE"}
        run(engine, "gelf", options, "echo", "hi", name="over-udp", flags="-e STAGE=b")
        message = json.loads(zlib.decompress(udp.until(lambda server: server.received)[0], 31))
        assert message["short_message"] == "hi"
        assert (message["_container_name"], message["_image_name"], message["_STAGE"]) == ("over-udp", "busybox", "b")
        assert message["_image_id"] == engine.out("inspect", "-f", "{{.Image}}", "over-udp")
        run(engine, "gelf", {"gelf-address": f"tcp://127.0.0.1:{tcp.port}"}, "seq", "1", "300", name="over-tcp")
        tcp.until(lambda server: server.data.count(b"\0") == 300)
        texts = [json.loads(part)["short_message"] for part in tcp.data.split(b"\0")[:-1]]
        assert texts == [str(number) for number in range(1, 301)]


def acknowledge(data: bytes) -> bytes:
    return b"".join(b"\x81\xa3ack\xb8" + data[m.end() : m.end() + 24] for m in re.finditer(b"\xa5chunk\xb8", data))


def test_fluentd_gets_records_and_acknowledges_them(engine: Engine) -> None:
    """LOG-04"""
    with log_server(socket_in(engine.name, TCP), answer=acknowledge) as server:
        options = {"fluentd-address": f"127.0.0.1:{server.port}", "fluentd-request-ack": "true", "tag": "t.{{.Name}}"}
        run(engine, "fluentd", options, "echo", "hi")
        tag, _, record, option = msgspec.msgpack.decode(server.until(lambda server: server.data))
    assert tag == "t.web"
    assert record["log"] == "hi"
    assert record["container_name"] == "/web"
    assert set(option) == {"chunk"}
    assert engine.out("logs", "web") == "hi"


def test_a_server_that_is_not_there_fails_the_start_unless_it_is_not_waited_for(engine: Engine) -> None:
    """LOG-04: as moby's drivers, which connect before the container starts."""
    with socket_in(engine.name, TCP) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    before = "failed to create task for container: failed to initialize logging driver: "
    words = f"dial tcp {address}: connect: connection refused"
    for driver, option, expected in (
        ("fluentd", f"fluentd-address={address}", words),
        ("syslog", f"syslog-address=tcp://{address}", words),
        ("gelf", f"gelf-address=tcp://{address}", f"gelf: cannot connect to GELF endpoint: {address} {words}"),
        ("syslog", "syslog-address=unix:///no/such", "dial unix /no/such: connect: no such file or directory"),
    ):
        assert before + expected in refusal(engine, "--log-driver", driver, "--log-opt", option)
    run(engine, "fluentd", {"fluentd-address": address, "fluentd-async": "true"}, "echo", "hi")
    assert engine.out("logs", "web") == "hi"
    engine.cli("rm", "web")
    with log_server(socket_in(engine.name, TCP, int(address.rpartition(":")[2]))) as server:
        run(engine, "fluentd", {"fluentd-address": address, "fluentd-async": "true"}, "echo", "later")
        assert b"later" in server.until(lambda server: server.data)


def test_with_the_cache_switched_off_there_is_nothing_to_read(engine: Engine) -> None:
    """LOG-06"""
    with log_server(socket_in(engine.name, UDP)) as server:
        address = f"udp://127.0.0.1:{server.port}"
        run(engine, "syslog", {"syslog-address": address, "cache-disabled": "true"}, "echo", "hi")
        done = engine.cli("logs", "web", check=False)
    assert (done.returncode, "configured logging driver does not support reading" in done.stderr) == (1, True)
    assert not list(folder(engine, "web").glob("*.log*"))


def test_the_cache_rotates_as_it_is_told(engine: Engine) -> None:
    """LOG-06"""
    with log_server(socket_in(engine.name, UDP)) as server:
        cache = {"cache-max-size": "20k", "cache-max-file": "3", "cache-compress": "false"}
        address = f"udp://127.0.0.1:{server.port}"
        run(engine, "syslog", {"syslog-address": address, **cache}, "seq", "1", "5000")
    assert sorted(path.name for path in folder(engine, "web").glob("*.log*")) == [
        "container-cached.log",
        "container-cached.log.1",
        "container-cached.log.2",
    ]
    assert engine.out("logs", "--tail", "2", "web") == "4999\n5000"


def test_a_stalled_server_holds_up_its_own_container_and_no_other(engine: Engine) -> None:
    """LOG-05, EXE-11: mode blocking stops the reading of that container; non-blocking drops the oldest instead."""
    with socket_in(engine.name, TCP) as stalled:
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stalled.listen(5)  # the kernel takes connections, nobody reads
        address = f"tcp://127.0.0.1:{stalled.getsockname()[1]}"
        options = ["--log-driver", "syslog", "--log-opt", f"syslog-address={address}"]
        script = "seq 1 1000000 && touch /finished; sleep 1000"
        engine.cli("run", "-d", "--name", "blocking", *options, "busybox", "sh", "-c", script)
        ring = [*options, "--log-opt", "mode=non-blocking"]
        engine.cli("run", "-d", "--name", "ring", *ring, "busybox", "sh", "-c", script)
        engine.wait_for(lambda: engine.cli("exec", "ring", "test", "-e", "/finished", check=False).returncode == 0)
        assert engine.out("run", "--rm", "busybox", "echo", "free") == "free"
        assert engine.cli("exec", "blocking", "test", "-e", "/finished", check=False).returncode == 1
        engine.cli("rm", "-f", "blocking", "ring")


def test_output_survives_a_restart_of_the_server_of_the_engine_and_of_the_copier(engine: Engine) -> None:
    """LOG-04: a lost server is connected to again, by whoever copies at the time."""
    port = 0
    script = "n=0; while read x; do n=$((n+1)); echo line $n; done"
    with log_server(socket_in(engine.name, TCP)) as server:
        port = server.port
        address = f"fluentd-address=127.0.0.1:{port}"
        options = ["--log-driver", "fluentd", "--log-opt", address, "--log-opt", "fluentd-retry-wait=100ms"]
        engine.cli("run", "-di", "--name", "web", *options, "busybox", "sh", "-c", script)
        give_line(engine)
        server.until(lambda server: b"line 1" in server.data)
    give_line(engine)
    engine.wait_for(lambda: "line 2" in engine.out("logs", "web"))
    os.kill(copier(engine), signal.SIGKILL)
    with log_server(socket_in(engine.name, TCP, port)) as server:
        server.until(lambda server: b"line 2" in server.data)
        engine.kill()
        engine.start()
        give_line(engine)
        server.until(lambda server: b"line 3" in server.data)
        os.kill(copier(engine), signal.SIGKILL)
        give_line(engine)
        server.until(lambda server: b"line 4" in server.data)
    assert engine.out("logs", "web").split("\n") == [f"line {number}" for number in range(1, 5)]


@pytest.fixture
def defaulting() -> Iterator[Engine]:
    """An engine whose default driver is another one."""
    engine = Engine("--log-driver", "local", "--log-opt", "tag={{.Name}}", "--log-opt", "max-size=1m")
    try:
        engine.start()
        engine.load_busybox()
        yield engine
    finally:
        engine.close()


def test_the_daemons_default_driver_and_options_are_used(defaulting: Engine) -> None:
    """LOG-03"""
    engine = defaulting
    assert engine.json("/info")["LoggingDriver"] == "local"
    engine.cli("run", "--name", "web", "busybox", "echo", "hi")
    assert engine.out("logs", "--details", "web") == "tag=web hi"
    config = json.loads(engine.out("inspect", "-f", "{{json .HostConfig.LogConfig}}", "web"))
    assert config == {"Type": "local", "Config": {"tag": "{{.Name}}", "max-size": "1m"}}
    engine.cli("run", "--name", "other", "--log-driver", "json-file", "busybox", "echo", "hi")
    assert json.loads(engine.out("inspect", "-f", "{{json .HostConfig.LogConfig.Config}}", "other")) == {}


@pytest.mark.guest
@pytest.mark.skipif(not os.path.exists("/run/systemd/journal/socket"), reason="needs a host with a journal")
def test_the_journal_finds_a_containers_lines_by_its_name(engine: Engine) -> None:
    """LOG-04"""
    name = f"boat-{engine.name}"
    script = "echo out; echo err >&2; head -c 20000 /dev/zero | tr '\\0' x; echo"
    run(engine, "journald", {"tag": "fleet/{{.Name}}"}, "sh", "-c", script, name=name)

    def found() -> list[dict[str, str]]:
        done = subprocess.run(
            ["journalctl", "-o", "json", "--all", f"CONTAINER_NAME={name}"], capture_output=True, text=True, check=True
        )
        entries = [json.loads(line) for line in done.stdout.splitlines()]
        return entries if len(entries) == 4 else []

    entries = sorted(engine.wait_for(found), key=lambda entry: int(entry["CONTAINER_LOG_ORDINAL"]))
    said = {entry["MESSAGE"]: entry["PRIORITY"] for entry in entries if len(entry["MESSAGE"]) < 10}
    assert said == {"out": "6", "err": "3"}
    first, last = [entry for entry in entries if "CONTAINER_PARTIAL_ID" in entry]
    assert (len(first["MESSAGE"]), len(last["MESSAGE"])) == (16384, 3616)
    assert (first["CONTAINER_PARTIAL_LAST"], last["CONTAINER_PARTIAL_LAST"]) == ("false", "true")
    assert {entry["SYSLOG_IDENTIFIER"] for entry in entries} == {f"fleet/{name}"}
    assert {entry["IMAGE_NAME"] for entry in entries} == {"busybox"}
    assert {entry["CONTAINER_ID_FULL"][:12] for entry in entries} == {entries[0]["CONTAINER_ID"]}
    assert "out" in engine.out("logs", name)
