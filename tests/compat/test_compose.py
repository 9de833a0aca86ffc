"""`docker compose`: projects of several services, as people bring them up, change them and take them down.

API-24 throughout: lists by label, containers on several networks, waits for health and for an end, events, archives.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.compose import Project, install_plugin
from tests.support.engine import Engine

pytestmark = pytest.mark.root


@pytest.fixture
def project(engine: Engine, tmp_path: Path) -> Iterator[Project]:
    install_plugin(engine)
    project = Project(engine, tmp_path)
    yield project
    project("--profile", "*", "down", "-v", "--remove-orphans", "-t", "0")
    assert project.leftovers() == []


SHOP = """
x-common: &common {image: busybox, labels: {team: sea}}
services:
  db:
    <<: *common
    command: [sh, -c, "echo $$GREETING > /data/greeting; touch /tmp/ready; exec httpd -f -p 80 -h /data"]
    env_file: [db.env]
    environment: {EXTRA: from the file}
    volumes: ["data:/data"]
    healthcheck: {test: [CMD, test, -e, /tmp/ready], interval: 1s, timeout: 5s, retries: 10, start_period: 1s}
    networks: {back: {aliases: [store], ipv4_address: 172.40.0.10}}
    init: true
  migrate:
    <<: *common
    command: [wget, -q, -O, /data/copy, "http://172.40.0.10/greeting"]
    volumes: ["data:/data"]
    networks: [back]
    depends_on: {db: {condition: service_healthy}}
  web:
    <<: *common
    command: [sh, -c, "trap 'exit 7' USR1; cat /data/copy; while :; do sleep 0.1; done"]
    volumes: ["data:/data:ro"]
    depends_on: {migrate: {condition: service_completed_successfully}}
    networks: {front: {}, back: {aliases: [site]}}
    ports: ["127.0.0.1::8080", "9000-9001:9000-9001/udp"]
    configs: [{source: page, target: /etc/page}]
    secrets: [key]
    extra_hosts: ["outside:192.0.2.7", "host.docker.internal:host-gateway"]
    tmpfs: ["/scratch:size=1m"]
    ulimits: {nofile: {soft: 100, hard: 200}}
    logging: {driver: json-file, options: {max-size: 1m, max-file: "2"}}
    restart: unless-stopped
    stop_signal: USR1
    stop_grace_period: 20s
    cap_drop: [ALL]
    cap_add: [CHOWN]
    read_only: true
    user: "65534"
    working_dir: /scratch
    hostname: webhost
    dns_search: [example.test]
    sysctls: {net.ipv4.ip_default_ttl: "61"}
    security_opt: ["no-new-privileges:true"]
    shm_size: 8m
    mem_limit: 64m
    pids_limit: 100
    cpus: 0.5
networks:
  front: {}
  back: {ipam: {config: [{subnet: 172.40.0.0/24}]}, labels: {kind: inner}}
volumes: {data: {labels: {kind: kept}}}
configs: {page: {file: ./page.txt}}
secrets: {key: {file: ./key.txt}}
"""


def test_a_project_comes_up_in_order_and_changes_only_where_its_file_did(engine: Engine, project: Project) -> None:
    """API-24, CTR-23: health and a job's end are waited for; a second `up` finds everything as it should be."""
    project.write(compose=SHOP, db_env="GREETING=hello from the env file\n", page_txt="page\n", key_txt="key\n")
    project("up", "-d")

    rows = project.rows()
    assert {name: row["State"] for name, row in rows.items()} == {
        "shop-db-1": "running", "shop-migrate-1": "exited", "shop-web-1": "running",
    }  # fmt: skip
    assert rows["shop-db-1"]["Health"] == "healthy"
    assert project("logs", "--no-log-prefix", "web") == "hello from the env file"
    inside = project(
        "exec", "-T", "web", "sh", "-c",
        "cat /etc/page /run/secrets/key; ulimit -n; hostname; id -u; pwd; cat /proc/sys/net/ipv4/ip_default_ttl;"
        "grep -c -e 192.0.2.7.outside -e host.docker.internal /etc/hosts; grep ^search /etc/resolv.conf;"
        "touch /x 2>&1; grep -e NoNewPrivs -e CapBnd /proc/self/status; nslookup store. | grep 172; echo > /scratch/x",
    )  # fmt: skip
    assert inside.splitlines() == [
        "page", "key", "100", "webhost", "65534", "/scratch", "61", "2", "search example.test",
        "touch: /x: Read-only file system", "CapBnd:\t0000000000000001", "NoNewPrivs:\t1", "Address: 172.40.0.10",
    ]  # fmt: skip
    host = engine.json("/containers/shop-web-1/json")["HostConfig"]
    assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "2"}}
    assert (host["RestartPolicy"]["Name"], host["Memory"], host["NanoCpus"]) == ("unless-stopped", 64 << 20, 5 * 10**8)
    assert engine.json("/networks/shop_back")["Labels"]["kind"] == "inner"
    assert engine.json("/volumes/shop_data")["Labels"]["kind"] == "kept"
    assert "docker-init" in project("exec", "-T", "db", "cat", "/proc/1/cmdline")

    before = {row["ID"] for name, row in rows.items() if name != "shop-db-1"}
    project("up", "-d")
    assert {row["ID"] for row in project.rows().values()} >= before
    project.write(compose=SHOP.replace("EXTRA: from the file", "EXTRA: changed"))
    project("up", "-d", "--no-deps", "db")
    after = {name: row["ID"] for name, row in project.rows().items()}
    assert after["shop-db-1"] != rows["shop-db-1"]["ID"]
    assert {after["shop-web-1"], after["shop-migrate-1"]} == before
    assert project("exec", "-T", "db", "sh", "-c", "echo $EXTRA; cat /data/copy").splitlines() == [
        "changed", "hello from the env file",
    ]  # fmt: skip

    project("stop", "web")
    assert project.rows()["shop-web-1"]["ExitCode"] == 7, "stopped by its own signal, within its own time"
    project("down")
    assert project.leftovers() == ["shop_data"], "volumes stay unless asked for"


WORKERS = """
services:
  worker:
    image: busybox
    command: [sh, -c, "echo working; exec sleep 1000"]
    deploy: {replicas: 2, resources: {limits: {memory: 32m, cpus: "0.25"}}}
    stop_grace_period: 0s
  web:
    image: busybox
    command: [httpd, -f, -p, "80"]
    ports: ["127.0.0.1::80", "5300:53/udp"]
    stop_grace_period: 0s
  debug:
    image: busybox
    profiles: [tools]
    command: [wget, -O, "-", "http://127.0.0.1/"]
    network_mode: "service:web"
"""


def test_replicas_and_looking_at_them(engine: Engine, project: Project) -> None:
    """`up --scale`, ps, top, logs, port, images, ls, kill, pause, restart of one of several."""
    project.write(compose=WORKERS)
    project("up", "-d", "--wait")
    assert len(project.ids("worker")) == 2
    first = project.ids("worker")[:]
    project("up", "-d", "--scale", "worker=3", "--no-recreate")
    assert len(project.ids("worker")) == 3
    assert set(first) < set(project.ids("worker"))
    assert project("top", "worker").count("sleep 1000") == 3
    engine.wait_for(lambda: project("logs", "worker").count("working") == 3)
    assert project("exec", "--index", "3", "-T", "worker", "hostname") in {id_[:12] for id_ in project.ids("worker")}
    address, _, port = project("port", "web", "80").rpartition(":")
    assert address == "127.0.0.1"
    assert int(port) >= 32768
    assert project("port", "--protocol", "udp", "web", "53") == "0.0.0.0:5300"
    assert project("images").count("busybox") == 4
    assert json.loads(project("ls", "--format", "json"))[0]["Status"] == "running(4)"
    assert "32MiB" in project("stats", "--no-stream", "worker")
    project("pause", "web")
    assert project.rows()["shop-web-1"]["State"] == "paused"
    project("unpause", "web")
    project("kill", "-s", "KILL", "worker")
    assert project("ps", "--status", "exited", "-aq").count("\n") == 2
    project("restart", "-t", "0", "worker")
    assert project("ps", "--status", "running", "-q", "worker").count("\n") == 2
    project("up", "-d", "--scale", "worker=1")
    assert len(project.ids("worker")) == 1
    project("rm", "-sf", "web")
    assert project.ids("web") == []


def test_a_profile_is_asked_for_and_shares_a_network(project: Project) -> None:
    """`--profile`, `network_mode: service:`, and `run` of a service that is not up."""
    project.write(compose=WORKERS)
    project("up", "-d")
    assert project.ids("debug") == []
    done = project.run("--profile", "tools", "run", "--rm", "-T", "debug")
    assert "404 Not Found" in done.stderr, "web answers on the address that both have"
    assert project.ids("debug") == []


def test_run_exec_and_copies(project: Project) -> None:
    """One-off containers with input and exit codes; files in and out of all replicas; create, start and stop."""
    project.write(compose=WORKERS, note_txt="a note\n")
    project("create")
    assert {row["State"] for row in project.rows().values()} == {"created"}
    project("start")
    assert project("run", "--rm", "-T", "-e", "A=b", "worker", "sh", "-c", "echo $A; cat", data="typed\n") == "b\ntyped"
    assert project.run("run", "--rm", "-T", "worker", "sh", "-c", "exit 5").returncode == 5
    assert project.run("exec", "-T", "worker", "sh", "-c", "exit 6").returncode == 6
    assert project("exec", "-T", "worker", "cat", data="through\n") == "through"
    project("cp", str(project.folder / "note.txt"), "worker:/tmp/note")
    for index in ("1", "2"):
        assert project("exec", "--index", index, "-T", "worker", "cat", "/tmp/note") == "a note"
    project("cp", "--index", "2", "worker:/tmp/note", str(project.folder / "back.txt"))
    assert (project.folder / "back.txt").read_text() == "a note\n"
    project("stop")
    assert project("ps", "-q") == ""


def test_events_of_a_project_only(engine: Engine, project: Project) -> None:
    project.write(compose=WORKERS)
    project("up", "-d", "web")
    with project.running("events", "--json") as events:
        seen: list[tuple[str, str]] = []
        assert events.stdout is not None
        stranger = engine.out("run", "-d", "busybox", "true")
        # The subscription begins when it begins: go on until it shows.
        while not seen:
            project("restart", "-t", "0", "web")
            line = json.loads(events.stdout.readline())
            assert line["id"] != stranger
            seen.append((line["service"], line["action"]))
        while seen[-1][1] != "restart":
            line = json.loads(events.stdout.readline())
            seen.append((line["service"], line["action"]))
    assert {"die", "stop", "start"} <= {action for _, action in seen}
    assert {service for service, _ in seen} == {"web"}


def test_what_is_external_stays(engine: Engine, project: Project) -> None:
    """A network and a volume from outside: found, used, and left alone by `down -v`."""
    project.write(
        compose="""
services:
  web:
    image: busybox
    command: [sh, -c, "cat /kept/before; hostname -i"]
    volumes: ["kept:/kept"]
    networks: {outer: {ipv4_address: 172.41.0.9, priority: 100}}
networks: {outer: {external: true}}
volumes: {kept: {external: true, name: theirs}}
"""
    )
    done = project.run("up", "-d")
    assert (done.returncode, "network outer not found" in done.stderr) == (1, True)
    engine.cli("network", "create", "--subnet", "172.41.0.0/24", "outer")
    engine.cli("volume", "create", "theirs")
    engine.cli("run", "--rm", "-v", "theirs:/kept", "busybox", "sh", "-c", "echo was here > /kept/before")
    project("up", "-d")
    engine.wait_for(lambda: project("logs", "--no-log-prefix", "web").splitlines() == ["was here", "172.41.0.9"])
    project("down", "-v")
    assert engine.out("volume", "ls", "-q") == "theirs"
    assert engine.json("/networks/outer")["Name"] == "outer"


def test_a_dependency_that_fails_is_told(project: Project) -> None:
    """CTR-09, CTR-23: the job's exit code; the service that never gets healthy."""
    project.write(
        compose="""
services:
  job: {image: busybox, command: [sh, -c, exit 3]}
  sick:
    image: busybox
    command: [sleep, "1000"]
    stop_grace_period: 0s
    healthcheck: {test: [CMD, "false"], interval: 100ms, timeout: 5s, retries: 1}
  after-job: {image: busybox, depends_on: {job: {condition: service_completed_successfully}}}
  after-sick: {image: busybox, depends_on: {sick: {condition: service_healthy}}}
"""
    )
    done = project.run("up", "-d", "after-job")
    assert (done.returncode, 'service "job" didn\'t complete successfully: exit 3' in done.stderr) == (1, True)
    done = project.run("up", "-d", "after-sick")
    assert done.returncode == 1
    assert "dependency failed to start: container shop-sick-1 is unhealthy" in done.stderr


def test_in_the_foreground(engine: Engine, project: Project) -> None:
    """Attached before anything starts, so no line is missed; an exit code is handed on; Ctrl-C stops what it began."""
    project.write(
        compose="""
services:
  talk: {image: busybox, command: [sh, -c, "echo one; echo two >&2; sleep 0.3; exit 9"]}
  wait: {image: busybox, command: [sleep, "1000"], stop_grace_period: 0s}
"""
    )
    done = project.run("up", "--exit-code-from", "talk")
    assert done.returncode == 9
    lines = done.stdout.splitlines()
    assert any(line.startswith("talk-1") and line.endswith("| one") for line in lines), done.stdout
    assert "talk-1 exited with code 9" in done.stdout + done.stderr
    assert {row["State"] for row in project.rows().values()} == {"exited"}
    with project.running("up", "wait") as up:
        engine.wait_for(lambda: project("ps", "-q", "wait"))
        up.send_signal(signal.SIGINT)
        up.communicate(timeout=60)
    assert project("ps", "-q") == ""


def test_a_project_outlives_the_engine(engine: Engine, project: Project) -> None:
    """SYS-08: after kill -9 of the engine the project is as it was, and `up` has nothing to do."""
    project.write(compose=WORKERS)
    project("up", "-d")
    before = {name: (row["ID"], row["State"]) for name, row in project.rows().items()}
    engine.kill()
    engine.start()
    project("up", "-d")
    assert {name: (row["ID"], row["State"]) for name, row in project.rows().items()} == before
    assert project("top", "worker").count("sleep 1000") == 2
