# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab refuses a machine that cannot run it, with every reason at once."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from labkit import preflight

GIB = preflight.GIB
GOOD = preflight.Found(
    root=True,
    missing=(),
    cgroup="v2",
    cgroup_problem=None,
    memory_total=16 * GIB,
    memory_free=12 * GIB,
    disk_free={"/var/lib/containers": 40 * GIB, "/c": 40 * GIB},
    cache="/c",
)
V2 = "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n"
V1 = "".join(f"cgroup /sys/fs/cgroup/{name} cgroup rw,{name} 0 0\n" for name in ("memory", "pids", "cpu"))
SYSTEMD = "cgroup /sys/fs/cgroup/systemd cgroup rw,name=systemd 0 0\n"
UNIFIED = "cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n"


def told(first: bool = True, hosts_up: bool = False, **changes: Any) -> list[str]:
    return preflight.problems(dataclasses.replace(GOOD, **changes), first=first, hosts_up=hosts_up)


def test_a_good_machine_is_taken() -> None:
    assert told() == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"root": False}, ["root", "sudo"]),
        ({"missing": ("runc", "podman", "runc")}, ["apt-get install", "podman runc"]),
        ({"cgroup_problem": "cannot be written"}, ["v2", "cannot be written"]),
        ({"memory_total": 8 * GIB, "memory_free": 7 * GIB}, ["8.0 GiB", "10 GiB"]),
        ({"memory_free": 3 * GIB}, ["3.0 GiB", "STEADFAST_LAB"]),
        ({"disk_free": {"/c": 14 * GIB}}, ["/c", "14.0 GiB", "STEADFAST_CACHE"]),
    ],
)
def test_each_reason_has_a_way_out(changes: dict[str, Any], words: list[str]) -> None:
    texts = told(**changes)
    assert len(texts) == 1
    assert all(word in texts[0] for word in words)


def test_all_reasons_at_once() -> None:
    assert len(told(root=False, missing=("runc",), memory_total=GIB, disk_free={"/c": 0})) == 4


def test_less_room_is_needed_when_things_are_there() -> None:
    little = {"/c": 6 * GIB}
    assert told(first=True, disk_free=little)
    assert not told(first=False, disk_free=little)
    assert not told(first=False, hosts_up=True, disk_free={"/c": GIB}, memory_free=GIB)


@pytest.mark.parametrize(
    ("mounts", "kind"),
    [(V2, "v2"), (V1 + SYSTEMD, "v1"), (V1 + SYSTEMD + UNIFIED, "hybrid"), ("proc /proc proc rw 0 0\n", "none")],
)
def test_kinds_of_control_groups(mounts: str, kind: str) -> None:
    found, where = preflight.cgroup_kind(mounts)
    assert found == kind
    problem = preflight.cgroup_problem(found, where, lambda place: True)
    assert (problem is not None) == (kind == "none")


def test_version_1_without_systemds_hierarchy_says_how_to_mount_it() -> None:
    problem = preflight.cgroup_problem(*preflight.cgroup_kind(V1), lambda place: True)
    assert problem
    assert "mount -t cgroup -o none,name=systemd" in problem


def test_what_cannot_be_written_is_named() -> None:
    problem = preflight.cgroup_problem(*preflight.cgroup_kind(V1 + SYSTEMD), lambda place: "pids" not in place)
    assert problem
    assert problem.startswith("/sys/fs/cgroup/pids cannot be written")
