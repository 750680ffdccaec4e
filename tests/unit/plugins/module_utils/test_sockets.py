# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Listening sockets as /proc tells them: tables for the text, the running kernel for the rest."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from ansible_collections.steadfast.vllm.plugins.module_utils import _sockets

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
LINE = "   0: {address} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000   998        0 4711 1 0 100\n"


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("00000000:1F40", "0.0.0.0"),
        ("0100007F:1F40", "127.0.0.1"),
        ("00000000000000000000000000000000:1F40", "::"),
        ("00000000000000000000000001000000:1F40", "::1"),
        ("0000000000000000FFFF00000100007F:1F40", "127.0.0.1"),
    ],
)
def test_listening_sockets(address: str, text: str) -> None:
    assert list(_sockets.parse(HEAD + LINE.format(address=address, state="0A"))) == [(text, 8000, 998, 4711)]


def test_connections_are_not_listeners() -> None:
    assert list(_sockets.parse(HEAD + LINE.format(address="0100007F:1F40", state="01"))) == []


@pytest.mark.parametrize(
    ("cgroup", "unit"),
    [
        ("0::/system.slice/qwen3vl.service\n", "qwen3vl.service"),
        ("12:pids:/x\n1:name=systemd:/system.slice/nginx.service\n", "nginx.service"),
        ("0::/user.slice/user-0.slice/user@0.service/app.slice/x.service\n", "user@0.service"),
        ("0::/system.slice/docker-0f.scope\n", None),
        ("0::/\n", None),
        ("", None),
    ],
)
def test_unit_of(cgroup: str, unit: str | None) -> None:
    assert _sockets.unit_of(cgroup) == unit


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_this_very_process_is_found(family: socket.AddressFamily, address: str) -> None:
    with socket.socket(family) as server:
        try:
            server.bind((address, 0))
        except OSError:
            pytest.skip(f"this machine has no {address}")
        server.listen()
        port = server.getsockname()[1]
        (found,) = _sockets.listeners({port})
    assert found["address"] == address
    assert found["port"] == port
    assert found["pid"] == os.getpid()
    assert found["command"]
    assert _sockets.listeners({port}) == []


def test_nobody_asked_for_is_nobody_looked_for() -> None:
    assert _sockets.listeners(set()) == []


@pytest.mark.parametrize(
    ("comm", "cmdline", "exe", "title"),
    [
        ("python3", "python3\0-m\0S3CR3T", "/usr/bin/python3.12", "python3"),
        ("VLLM::EngineCor", "VLLM::EngineCore\0\0\0", "/opt/vllm/bin/python3.12", "VLLM::EngineCore"),
        ("VLLM::Worker_TP", "VLLM::Worker_TP0_PP1", "/opt/vllm/bin/python3.12", "VLLM::Worker_TP0_PP1"),
        ("systemd-timesyn", "/usr/lib/systemd/systemd-timesyncd\0", "", "systemd-timesyncd"),
        ("a-very-long-pro", "other\0S3CR3T", "/usr/bin/a-very-long-program (deleted)", "a-very-long-program"),
        # A title of one word that holds what it should not.
        ("VLLM::EngineCor", "VLLM::EngineCore --api-key S3CR3T", "", "VLLM::EngineCore"),
        ("a-very-long-pro", "a-very-long-pro=S3CR3T", "", "a-very-long-pro"),
        ("a-very-long-pro", "another\0", "/usr/bin/another", "a-very-long-pro"),
        ("", "", "", ""),
    ],
)
def test_the_name_of_a_process_is_whole_and_nothing_but_a_name(
    tmp_path: Path, comm: str, cmdline: str, exe: str, title: str
) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "comm").write_text(f"{comm}\n")
    (tmp_path / "7" / "cmdline").write_text(cmdline)
    if exe:
        (tmp_path / "7" / "exe").symlink_to(exe)
    assert _sockets.title(7, str(tmp_path)) == title
    assert _sockets.title(8, str(tmp_path)) == ""
