"""Attaching a device program to a v2 cgroup with bpf(2). The program is compiled by the engine (device_program.py)."""

from __future__ import annotations

import ctypes
import os
import struct

from . import kernel as k

_BPF = {"x86_64": 321, "aarch64": 280}[os.uname().machine]
_PROG_LOAD, _PROG_ATTACH = 5, 8
_TYPE_CGROUP_DEVICE, _ATTACH_CGROUP_DEVICE = 15, 6
_ALLOW_MULTI = 2


def attach(cgroup: str, program: bytes) -> None:
    """Load and attach; the cgroup keeps the program alive. Raises OSError."""
    code = ctypes.create_string_buffer(program, len(program))
    licence = ctypes.create_string_buffer(b"Apache-2.0")
    load = struct.pack(
        "IIQQIIQI",
        _TYPE_CGROUP_DEVICE,
        len(program) // 8,
        ctypes.addressof(code),
        ctypes.addressof(licence),
        0,
        0,
        0,
        0,
    )
    program_fd = k.bpf(_BPF, _PROG_LOAD, load)
    try:
        cgroup_fd = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            k.bpf(_BPF, _PROG_ATTACH, struct.pack("IIII", cgroup_fd, program_fd, _ATTACH_CGROUP_DEVICE, _ALLOW_MULTI))
        finally:
            os.close(cgroup_fd)
    finally:
        os.close(program_fd)
