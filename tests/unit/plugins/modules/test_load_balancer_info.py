# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the balancer's host is seen to be."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest
from ansible_collections.steadfast.vllm.plugins.modules.load_balancer_info import (
    addresses,
    selinux_closed,
    statistics,
    unit_state,
)


@pytest.mark.parametrize(
    ("shown", "active", "enabled"),
    [
        ("ActiveState=active\nUnitFileState=enabled\n", True, True),
        ("UnitFileState=disabled\nActiveState=reloading\n", True, False),
        ("ActiveState=failed\nUnitFileState=enabled\n", False, True),
        ("ActiveState=inactive\nUnitFileState=\n", False, False),
        ("", False, False),
    ],
)
def test_the_units_state(shown: str, active: bool, enabled: bool) -> None:
    assert unit_state(shown) == {"active": active, "enabled": enabled}


@pytest.mark.parametrize(("text", "closed"), [("0 0", True), ("1 1", False), (None, False)])
def test_selinux_is_closed_only_where_its_boolean_says_so(tmp_path: Path, text: str | None, closed: bool) -> None:
    boolean = tmp_path / "haproxy_connect_any"
    if text is not None:
        boolean.write_text(text)
    assert selinux_closed(boolean) is closed


def test_addresses_are_sorted_and_unknown_names_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(name: str, _port: None) -> list[tuple[object, ...]]:
        if name == "gone":
            raise socket.gaierror("unknown")
        found = ["10.0.0.2", "10.0.0.1", "10.0.0.2"]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    assert addresses(["gpu1", "gone"]) == {"gpu1": ["10.0.0.1", "10.0.0.2"]}


def test_a_name_that_cannot_be_one_is_unknown() -> None:
    assert addresses(["a" * 64 + ".invalid"]) == {}


def test_statistics_are_read_to_the_end(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    long = "x" * 200_000
    asked = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                asked.append(connection.recv(100))
                connection.sendall(long.encode())

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        assert statistics(str(path)) == long
        thread.join(5)
    assert asked == [b"show stat\n"]


def test_without_a_running_haproxy_there_are_no_statistics(tmp_path: Path) -> None:
    assert statistics(str(tmp_path / "none.sock")) == ""
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "left.sock"))  # as a killed HAProxy leaves it
    assert statistics(str(tmp_path / "left.sock")) == ""
