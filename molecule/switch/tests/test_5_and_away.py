# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""On to supervisor with the stand-in that test_4_tmux left in a session of screen; then all of it is given back."""

from __future__ import annotations

from collections.abc import Callable

from lab import client
from lab.faults import Subject
from lab.play import Run, play

MANAGER = "supervisor"
PROGRAM = "/etc/supervisor/conf.d/qwen3vl.conf"
STANDIN = {"service_release": "/srv/standin", "vllm_instances": [{**client.instance(), "extra_args": {}}]}


def test_supervisor_takes_over_from_screen_which_serves(
    subject: Subject, site: Callable[..., Run], exists: Callable[[str], bool]
) -> None:
    before = subject.processes()
    assert len(before) == 3
    site("supervisor", **STANDIN)
    assert not before & subject.processes()
    client.wait_until(lambda: subject.status()["verdict"] == "healthy", 60, "the keeper calls it healthy")
    assert subject.status()["manager"] == "supervisor"
    assert exists(PROGRAM)
    assert not exists("/etc/vllm/screen/qwen3vl")
    assert not subject.on("pgrep -xi screen || true")
    assert site("supervisor", **STANDIN).changed == {}


def test_removing_needs_a_word() -> None:
    run = play("-i", "molecule/switch/inventory", "--limit", "gpu1,localhost", playbook="playbooks/remove.yml")
    assert run.code != 0
    assert "remove_confirm=yes" in run.messages


def test_what_was_installed_goes_when_it_is_told_to(
    subject: Subject, site: Callable[..., Run], exists: Callable[[str], bool]
) -> None:
    assert subject.processes()
    site("supervisor", remove_confirm="yes", playbook="playbooks/remove.yml")
    assert subject.processes() == set()
    assert subject.on("pgrep -af '[v]llm_keeper' || true") == ""
    for path in ("/etc/vllm", "/etc/vllm-keeper", "/opt/vllm", "/opt/vllm-keeper", "/usr/local/bin/vllm-keeper",
                 "/etc/cron.d/vllm-keeper", "/var/lib/vllm-keeper", "/run/vllm-keeper"):  # fmt: skip
        assert not exists(path), path
    # its data are the user's: they stay until vllm_remove_data says otherwise
    assert exists("/var/lib/vllm")
