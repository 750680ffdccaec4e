# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From manager to manager, in this order: each takes over, and nothing of the one before is left."""

from __future__ import annotations

from typing import Any

from lab import client
from lab.faults import Subject
from lab.play import Run, fingerprint, play

HOST = "gpu1"
INVENTORY = ["-i", "molecule/switch/inventory", "--limit", f"{HOST},localhost"]
SECOND = {**client.instance(), "name": "second", "port": 8001, "served_model_name": "second", "gpus": []}
CHANGE = "steadfast.vllm.service : Leave what runs this host's instances"
UNIT = "/etc/systemd/system/qwen3vl.service"
PROGRAM = "/etc/supervisor/conf.d/qwen3vl.conf"


def site(manager: str, *words: str, instances: list[dict[str, Any]] | None = None) -> Run:
    run = play(
        *INVENTORY,
        *words,
        variables={"service_manager": manager, "vllm_instances": instances or [client.instance()]},
    )
    assert run.code == 0, run.messages
    return run


def exists(path: str) -> bool:
    return client.on(HOST, "sh", "-c", f"test -e {path} && echo yes || true").strip() == "yes"


def found(pattern: str) -> list[str]:
    return client.on(HOST, "sh", "-c", f"pgrep -af '{pattern}' || true").splitlines()


def test_check_mode_tells_of_the_change_and_makes_none() -> None:
    before = fingerprint()
    run = site("supervisor", "--check", "--diff")
    assert CHANGE in run.changed
    assert fingerprint() == before


def test_supervisor_takes_over_from_systemd() -> None:
    before = Subject(HOST, "systemd").processes()
    site("supervisor")
    subject = Subject(HOST, "supervisor")
    assert subject.sees_colours()
    subject.quiet()
    assert not before & subject.processes()
    assert subject.status()["manager"] == "supervisor"
    assert not exists(UNIT)
    assert not exists("/etc/systemd/system/multi-user.target.wants/qwen3vl.service")
    assert client.on(HOST, "systemctl", "is-active", "qwen3vl", check=False).strip() == "inactive"
    assert "qwen3vl.service" not in client.on(HOST, "systemctl", "list-units", "--all", "--plain", "--no-legend")
    assert exists(PROGRAM)


def test_then_nothing_is_left_to_do() -> None:
    assert site("supervisor").changed == {}


def test_a_second_instance_comes_and_goes_and_the_first_serves_on() -> None:
    first = Subject(HOST, "supervisor")
    before = first.processes()
    site("supervisor", instances=[client.instance(), SECOND])
    assert before <= first.processes(), "adding an instance restarted another"
    assert client.answers(f"http://{client.Lab.read().hosts[HOST]}:8001", "second")
    site("supervisor")
    assert first.processes() == before
    for path in ("/etc/vllm/second.yaml", "/etc/vllm/second.env", "/etc/vllm-keeper/second.json",
                 "/var/lib/vllm-keeper/second.json", "/etc/supervisor/conf.d/second.conf"):  # fmt: skip
        assert not exists(path), path
    assert "second" not in client.on(HOST, "supervisorctl", "status", check=False)


def test_tmux_takes_over_from_supervisor() -> None:
    site("tmux")
    subject = Subject(HOST, "tmux")
    assert subject.sees_colours()
    subject.quiet()
    assert not exists(PROGRAM)
    assert "qwen3vl" not in client.on(HOST, "supervisorctl", "status", check=False)
    sessions = client.on(HOST, "tmux", "-S", "/run/vllm-keeper/qwen3vl.tmux", "list-sessions", "-F", "#{session_name}")
    assert sessions.split() == ["qwen3vl"]


def test_removing_needs_a_word() -> None:
    run = play(*INVENTORY, playbook="playbooks/remove.yml")
    assert run.code != 0
    assert "remove_confirm=yes" in run.messages


def test_what_was_installed_goes_when_it_is_told_to() -> None:
    run = play(
        *INVENTORY, variables={"remove_confirm": "yes", "service_manager": "tmux"}, playbook="playbooks/remove.yml"
    )
    assert run.code == 0, run.messages
    assert client.processes(HOST) == {}
    assert found("[v]llm_keeper") == []
    for path in ("/etc/vllm", "/etc/vllm-keeper", "/opt/vllm", "/opt/vllm-keeper", "/usr/local/bin/vllm-keeper",
                 "/etc/cron.d/vllm-keeper", "/var/lib/vllm-keeper", "/run/vllm-keeper"):  # fmt: skip
        assert not exists(path), path
    # its data are the user's: they stay until vllm_remove_data says otherwise
    assert exists("/var/lib/vllm")
