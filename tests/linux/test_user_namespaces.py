"""Who containers run as: subordinate ids read, and a namespace made of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine.aggregates.values.id_map import IdMap, IdRange, joined, outside, table
from engine.config import ConfigError
from engine.drivers.linux import user_namespaces
from engine.drivers.linux.runtime.supervisor import kernel


def test_ranges_follow_each_other_in_the_container() -> None:
    """SEC-10: several lines of /etc/subuid are one map from 0 on."""
    ranges = joined([(1000, 10), (5000, 20)])
    assert table(ranges) == "0 1000 10\n10 5000 20\n"
    assert [outside(ranges, inside) for inside in (0, 9, 10, 29, 30)] == [1000, 1009, 5000, 5019, None]


def test_lines_of_a_user_by_name_and_by_number(tmp_path: Path) -> None:
    """SEC-10: lines of others, and lines that are none, do not count."""
    (tmp_path / "subuid").write_text("me:500:10\n# me:1:1\nother:600:10\n1000:100:5\nme:x:1\n")
    assert user_namespaces.subordinate(tmp_path / "subuid", "me", "1000") == [(100, 5), (500, 10)]
    assert user_namespaces.subordinate(tmp_path / "nosuch", "me", "1000") == []


@pytest.mark.parametrize(
    ("remap", "words"),
    [
        ("nosuchuser", "lookup failed"),
        ("nobody:nosuchgroup", "lookup failed"),
        ("99999999", "lookup failed"),
        (":group", "invalid user/group specification"),
        ("nobody:nogroup:x", "invalid user/group specification"),
        ("root:root", "root cannot be mapped"),
    ],
)
def test_whom_nobody_knows_is_refused(remap: str, words: str, tmp_path: Path) -> None:
    """SEC-10: at the start of the engine, and nothing is made."""
    with pytest.raises(ConfigError, match=words):
        user_namespaces.id_map_of(remap, tmp_path)


def test_a_user_without_ranges_is_refused(tmp_path: Path) -> None:
    """SEC-10: in dockerd's words."""
    with pytest.raises(ConfigError, match='no subuid ranges found for user "nobody"'):
        user_namespaces.id_map_of("nobody:nogroup", tmp_path)
    (tmp_path / "subuid").write_text("nobody:1000:10\n")
    with pytest.raises(ConfigError, match='no subgid ranges found for group "nogroup"'):
        user_namespaces.id_map_of("nobody:nogroup", tmp_path)


@pytest.mark.root
def test_a_network_namespace_belongs_to_a_mapped_user() -> None:
    """SEC-10: without this a container's root could not be root of its network."""
    id_map = IdMap(uids=(IdRange(0, 200000, 1000),), gids=(IdRange(0, 300000, 1000),))
    netns = user_namespaces.new_network_namespace(id_map)
    try:
        owner = kernel.owner_of(netns)
        assert os.fstat(owner).st_ino != os.stat("/proc/self/ns/user").st_ino
        os.close(owner)
    finally:
        os.close(netns)


@pytest.mark.root
def test_a_kernel_that_is_too_old_is_told_so(tmp_path: Path) -> None:
    """SEC-10: said when the engine starts, not with the first container."""
    id_map = IdMap(uids=(IdRange(0, 200000, 1000),), gids=(IdRange(0, 300000, 1000),))
    user_namespaces.check_host(str(tmp_path), id_map, (6, 1))
    with pytest.raises(ConfigError, match="needs Linux 5.19"):
        user_namespaces.check_host(str(tmp_path), id_map, (5, 18))
    with pytest.raises(ConfigError, match="no id-mapped mounts"):
        user_namespaces.check_host("/proc", id_map, (6, 1))
