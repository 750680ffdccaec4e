# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From manager to manager, in this order: each takes over, and nothing of the one before is left."""

from __future__ import annotations

from collections.abc import Callable

from lab import client
from lab.faults import Subject
from lab.play import Run, fingerprint

HOST = "gpu1"
CHANGE = "steadfast.vllm.service : Leave what runs this host's instances"
UNIT = "/etc/systemd/system/qwen3vl.service"
WANTED = "/etc/systemd/system/multi-user.target.wants/qwen3vl.service"
PROGRAM = "/etc/supervisor/conf.d/qwen3vl.conf"


def serving_under(manager: str) -> Subject:
    """What a change of the manager has to lead to: pictures answered, by one family of processes, and all is well."""
    subject = Subject(HOST, manager)
    assert subject.sees_colours()
    client.wait_until(lambda: subject.status()["verdict"] == "healthy", 60, "the keeper calls it healthy")
    subject.quiet()
    assert subject.status()["manager"] == manager
    return subject


def test_check_mode_tells_of_the_change_and_makes_none(site: Callable[..., Run]) -> None:
    before = fingerprint()
    run = site("systemd", "--check", "--diff")
    assert CHANGE in run.changed
    assert fingerprint() == before


def test_systemd_takes_over_from_supervisor(site: Callable[..., Run], exists: Callable[[str], bool]) -> None:
    """Stopped on purpose until now: a changed manager is a new wish."""
    site("systemd")
    subject = serving_under("systemd")
    assert not exists(PROGRAM)
    assert "qwen3vl" not in subject.on("supervisorctl status", check=False)
    assert exists(UNIT)
    assert exists(WANTED)


def test_tmux_takes_over_from_systemd_which_serves(site: Callable[..., Run], exists: Callable[[str], bool]) -> None:
    before = Subject(HOST, "systemd").processes()
    assert before
    site("tmux")
    subject = serving_under("tmux")
    assert not before & subject.processes()
    assert not exists(UNIT)
    assert not exists(WANTED)
    assert subject.on("systemctl is-active qwen3vl", check=False).strip() == "inactive"
    assert not subject.on("systemctl list-units --all --plain --no-legend qwen3vl.service")
    sessions = subject.on("tmux -S /run/vllm-keeper/qwen3vl.tmux list-sessions -F '#{session_name}'")
    assert sessions.split() == ["qwen3vl"]


def test_then_nothing_is_left_to_do(site: Callable[..., Run]) -> None:
    before = fingerprint()
    assert site("tmux", "--check").changed == {}
    assert site("tmux").changed == {}
    assert fingerprint() == before
