"""CTR-25: what `ps` prints, narrowed to a container's processes."""

from __future__ import annotations

import os

import pytest

from engine.drivers.linux.process_table import ProcessTable, table
from engine.errors import PortError


def test_the_last_column_takes_what_is_left_over() -> None:
    output = "UID  PID CMD\nroot 7 sh  -c   sleep 9\nroot 8 other\n"
    assert table(output, (7,)) == {"Titles": ["UID", "PID", "CMD"], "Processes": [["root", "7", "sh -c sleep 9"]]}


def test_threads_go_with_their_process() -> None:
    output = "PID TTY CMD\n7 - top\n- - -\n8 - other\n- - -\n"
    assert table(output, {7})["Processes"] == [["7", "-", "top"], ["-", "-", "-"]]


@pytest.mark.parametrize(
    ("output", "words"),
    [("USER CMD\nroot sh\n", "Couldn't find PID field in ps output"), ("PID CMD\nx sh\n", "Unexpected pid 'x'")],
)
def test_output_that_can_not_be_read_is_said(output: str, words: str) -> None:
    with pytest.raises(PortError) as caught:
        table(output, {1})
    assert caught.value.message == words


async def test_a_column_may_not_pose_as_the_pid() -> None:
    with pytest.raises(PortError, match='specifying "comm=PID" is not allowed'):
        await ProcessTable().rows("-o comm=PID", (os.getpid(),))


async def test_what_ps_refuses_is_told_in_its_words() -> None:
    with pytest.raises(PortError, match="^ps: .*nonsense"):
        await ProcessTable().rows("-o nonsense", (os.getpid(),))


async def test_options_that_exclude_a_list_of_pids_are_filtered_here() -> None:
    found = await ProcessTable().rows("-ef f", (os.getpid(),))
    assert [row[found["Titles"].index("PID")] for row in found["Processes"]] == [str(os.getpid())]
