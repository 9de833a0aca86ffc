"""Flags, daemon.json and their merging, as an administrator meets them."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from engine import options
from engine.api.app import create_app
from engine.api.serving import serve_api
from engine.config import AddressPool, ConfigError, DaemonConfig, RuntimeConfig
from engine.config_reference import config_page
from engine.listeners import close_listeners, open_listeners
from engine.notify import READY, notify
from engine.options import OPTIONS
from engine.pidfile import pidfile
from tests.api.harness import context

ROOT = Path(__file__).parents[2]


def load(*flags: str, text: str = "") -> DaemonConfig:
    given = options.parser().parse_args(list(flags))
    return options.merge({k: v for k, v in vars(given).items() if k in {o.flag for o in OPTIONS}}, text)


def test_nothing_said_is_the_defaults() -> None:
    assert load() == DaemonConfig()
    assert load().data_root == "/var/lib/ishmael"
    assert load().live_restore


def test_flags_set_their_fields() -> None:
    """SYS-03."""
    config = load(
        "-H", "unix:///run/a.sock", "-H", "tcp://127.0.0.1:2375", "-D", "--iptables=false",
        "--default-shm-size", "128M",
        "--add-runtime", "crun=/usr/bin/crun", "--default-runtime=crun", "--log-opt", "max-size=1m", "--label", "a=b",
        "--default-ulimit", "nofile=1024:2048", "--default-address-pool", "base=10.10.0.0/16,size=24",
        "--exec-opt", "native.cgroupdriver=cgroupfs", "--experimental=false",
        "--default-network-opt", "bridge=a=1", "--default-network-opt", "bridge=b=2", "--ipv6", "-b", "br7",
    )  # fmt: skip
    assert config.hosts == ("unix:///run/a.sock", "tcp://127.0.0.1:2375")
    assert (config.debug, config.iptables, config.default_shm_size_bytes) == (True, False, 128 << 20)
    assert config.runtimes == {"crun": RuntimeConfig(path="/usr/bin/crun")}
    assert config.default_network_opts == {"bridge": {"a": "1", "b": "2"}}
    assert (config.ipv6, config.bridge) == (True, "br7")
    assert (config.log_opts, config.labels) == ({"max-size": "1m"}, ("a=b",))
    assert (config.default_ulimits[0].name, config.default_ulimits[0].hard) == ("nofile", 2048)
    assert config.default_address_pools == (AddressPool(base="10.10.0.0/16", size=24),)


def test_the_file_sets_the_same_fields_by_its_keys() -> None:
    """SYS-03."""
    config = load(
        text="""{"debug": true, "registry-mirrors": ["https://m.example"], "runtimes": {"x": {"path": "/x"}},
        "default-address-pools": [{"base": "10.0.0.0/8", "size": 16}], "default-ulimits": {"nofile":
        {"Name": "nofile", "Soft": 1, "Hard": 2}}, "live-restore": false, "default-shm-size": "64M"}"""
    )
    assert (config.debug, config.live_restore, config.registry_mirrors) == (True, False, ("https://m.example",))
    assert config.runtimes["x"].path == "/x"
    assert config.default_ulimits[0].soft == 1


@pytest.mark.parametrize(
    ("flags", "text", "words"),
    [
        ((), '{"debgu": true}', "the following directives don't match any configuration option: debgu"),
        (
            ("--log-level", "debug"),
            '{"log-level": "info"}',
            "the following directives are specified both as a flag and in the configuration file: "
            "log-level: (from flag: debug, from file: info)",
        ),
        (("--label", "a=b"), '{"labels": ["c=d"]}', 'labels: (from flag: ["a=b"], from file: ["c=d"])'),
        ((), '{"debug": 7', "Expecting"),
        ((), '{"debug": "maybe"}', 'invalid value "maybe" for debug'),
        (("--log-level", "loud"), "", "invalid logging level: loud"),
        (("--max-concurrent-downloads", "-1"), "", "invalid max concurrent downloads: -1"),
        (("--storage-driver", "btrfs"), "", "there are overlay2 and vfs"),
        (("--tlsverify",), "", "the option tlsverify is not implemented by this engine"),
        (("--metrics-addr", "127.0.0.1:9"), "", "the option metrics-addr is not implemented"),
        ((), '{"default-gateway": "router"}', "invalid default-gateway: router is not an ip address"),
        (("--default-gateway-v6", "10.0.0.1"), "", "10.0.0.1 is not an IPv6 address"),
        (("-b", "br7", "--bip6", "fd00::1/64"), "", "You specified -b & --bip6, mutually exclusive options"),
        (("--bip6", "10.0.0.1/24"), "", "10.0.0.1/24 is not an IPv6 address"),
        (("--fixed-cidr", "10.0.0.0"), "", "invalid fixed-cidr"),
        (("--fixed-cidr-v6", "fe80::/64"), "", "clash with the Link-Local prefix"),
        (("--mtu", "-1"), "", "invalid default MTU: -1"),
        (("--default-network-opt", "bridge=mtu"), "", "key=value is needed"),
        (("--exec-opt", "native.cgroupdriver=none"), "", "native.cgroupdriver option none not supported"),
        (("--exec-opt", "isolation=x"), "", "unknown option: 'isolation'"),
        (("--bip", "172.17.0.0/16"), "", "invalid bip"),
        (("--label", "a=1", "--label", "a=2"), "", "conflict labels for a=2 and a=1"),
        (("--default-runtime", "kata"), "", "specified default runtime 'kata' does not exist"),
        (("-H", "ftp://x"), "", "unsupported proto"),
        (("--registry-mirror", "m.example"), "", "no scheme specified"),
        (("--dns", "nowhere"), "", "nowhere is not an ip address"),
        (("--icc=false", "--iptables=false"), "", "Please set --icc or --iptables to true"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_words_people_search_for(
    flags: tuple[str, ...], text: str, words: str
) -> None:
    """SYS-03."""
    with pytest.raises(ConfigError, match=r".*") as refused:
        load(*flags, text=text)
    assert words in str(refused.value)


def test_the_name_that_dockerd_has_for_its_own_runtime_is_one_for_ours() -> None:
    """SYS-23."""
    assert load("--default-runtime", "runc").default_runtime == "runc"
    assert load("--add-runtime", "runc=/x", "--default-runtime", "runc").runtimes["runc"].path == "/x"


def test_runtimes_of_flag_and_file_are_put_together() -> None:
    config = load("--add-runtime", "a=/a", text='{"runtimes": {"b": {"path": "/b", "runtimeArgs": ["--x"]}}}')
    assert set(config.runtimes) == {"a", "b"}
    assert config.runtimes["b"].runtime_args == ("--x",)


def test_every_field_has_exactly_one_option() -> None:
    fields = [option.field for option in OPTIONS if option.implemented]
    assert sorted(fields) == sorted(DaemonConfig.__struct_fields__)
    assert len({option.key for option in OPTIONS}) == len(OPTIONS)


def test_the_reference_page_is_what_the_code_says() -> None:
    assert (ROOT / "docs/reference/config.md").read_text() == config_page()


@pytest.mark.parametrize(("text", "status"), [('{"debug": true}', 0), ('{"debug": 1, "x": 2}', 1), ("", 0)])
def test_validate_says_yes_or_no_without_starting(tmp_path: Path, text: str, status: int) -> None:
    file = tmp_path / "daemon.json"
    file.write_text(text)
    done = run("--validate", "--config-file", str(file))
    assert done.returncode == status
    assert ("configuration OK" in done.stdout) == (status == 0)
    if status:
        assert f"unable to configure the daemon with file {file}" in done.stderr


def test_a_missing_file_is_an_error_only_when_it_was_named(tmp_path: Path) -> None:
    assert run("--validate", "--config-file", str(tmp_path / "none.json")).returncode == 1
    assert run("--version").stdout.startswith("Ishmael version ")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "engine", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_a_second_engine_on_the_same_pidfile_is_refused(tmp_path: Path) -> None:
    """SYS-05."""
    path = tmp_path / "run" / "engine.pid"
    with pidfile(str(path)):
        assert path.read_text() == str(os.getpid())
    assert not path.exists()
    path.write_text("1")
    with pytest.raises(ConfigError, match="process with PID 1 is still running"), pidfile(str(path)):
        pass
    path.write_text("999999999")
    with pidfile(str(path)):
        assert path.read_text() == str(os.getpid())


def test_a_unix_socket_has_mode_0660_and_its_file_ends_with_it(tmp_path: Path) -> None:
    """SYS-01."""
    path = tmp_path / "new" / "engine.sock"
    sockets = open_listeners([f"unix://{path}"], group="no-such-group")
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    with pytest.raises(ConfigError, match="another process is listening there"):
        open_listeners([f"unix://{path}"], group="")
    close_listeners(sockets)
    assert not path.exists()


async def test_a_served_sockets_file_ends_with_the_engine(tmp_path: Path) -> None:
    path = tmp_path / "engine.sock"
    sockets = open_listeners([f"unix://{path}"], group="")
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_api, create_app(context()), sockets)
        nursery.cancel_scope.cancel()
    close_listeners(sockets)
    assert not path.exists()


def test_a_socket_left_over_by_a_dead_engine_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "engine.sock"
    for sock in open_listeners([f"unix://{path}"], group=""):
        sock.close()
    assert path.exists()
    close_listeners(open_listeners([f"unix://{path}"], group=""))


def test_several_hosts_are_opened_or_none(tmp_path: Path) -> None:
    """SYS-01."""
    unix = f"unix://{tmp_path}/engine.sock"
    sockets = open_listeners([unix, "tcp://127.0.0.1:0"], group="")
    assert [sock.family.name for sock in sockets] == ["AF_UNIX", "AF_INET"]
    close_listeners(sockets)
    with pytest.raises(ConfigError, match="socket activation"):
        open_listeners([unix, "fd://"], group="", environment={})


def test_sockets_of_systemd_are_taken_over(tmp_path: Path) -> None:
    code = (
        "import os, socket; from engine.listeners import open_listeners; os.environ['LISTEN_PID'] = str(os.getpid());"
        "sockets = open_listeners(['fd://'], group=''); print(sockets[0].getsockname()[0], sockets[0].fileno())"
    )
    shell = f'exec {sys.executable} -c "{code}" 3<&{{fd}}'
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        done = subprocess.run(
            ["bash", "-c", shell.format(fd=server.fileno())],
            cwd=ROOT,
            env={**os.environ, "LISTEN_FDS": "1"},
            pass_fds=[server.fileno()],
            capture_output=True,
            text=True,
            timeout=30,
        )
    assert done.stdout == "127.0.0.1 3\n", done.stderr


def test_the_service_manager_hears_that_we_are_ready(tmp_path: Path) -> None:
    """SYS-24."""
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        assert notify(READY, {"NOTIFY_SOCKET": str(tmp_path / "notify")})
        assert manager.recv(100) == b"READY=1"
    assert not notify(READY, {})
