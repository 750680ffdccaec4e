# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real vLLM under Debian's supervisor, and what differs most there. All faults: make faults.

What needs no real vLLM, such as a restart of supervisor that drains: tests/integration/test_supervisor.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from testinfra.host import Host

from lab import client, faults
from lab.play import play

MANAGER = "supervisor"
INVENTORY = ("-i", "molecule/supervisor/inventory", "--limit", "gpu1,localhost")


def site(*arguments: str, **variables: Any) -> Any:
    """A run of site.yml on this host."""
    return play(*INVENTORY, *arguments, variables=variables)


def test_the_program_runs_as_the_guide_says(gpu: Host) -> None:
    text = gpu.file("/etc/supervisor/conf.d/qwen3vl.conf").content_string
    for line in (
        "autostart=true", "autorestart=true", "startretries=999", "stopsignal=TERM", "stopasgroup=false",
        "killasgroup=true", "stdout_logfile_maxbytes=50MB", "stdout_logfile_backups=10", "redirect_stderr=true",
    ):  # fmt: skip
        assert line in text.splitlines(), line
    assert gpu.check_output("supervisorctl status qwen3vl").split()[1] == "RUNNING"
    assert gpu.service("supervisor").is_enabled
    assert not gpu.file("/etc/systemd/system/qwen3vl.service").exists


def test_only_root_may_give_orders(gpu: Host) -> None:
    socket = gpu.file("/run/supervisor.sock")
    assert (socket.user, socket.mode) == ("root", 0o700)


def test_the_server_is_the_user_s_and_its_log_where_the_docs_say(gpu: Host, subject: faults.Subject) -> None:
    pid = subject.status()["pid"]
    assert gpu.check_output(f"stat -c %U /proc/{pid}") == "vllm"
    log = gpu.file("/var/log/vllm/qwen3vl.log")
    assert "Application startup complete" in log.content_string
    assert "Application startup complete" in subject.keeper("logs", "-n", "2000", "qwen3vl")


def test_a_picture_is_answered(subject: faults.Subject) -> None:
    assert subject.sees_colours()


def test_a_second_run_finds_its_own_port_and_a_limit_is_not_promised(gpu: Host) -> None:
    before = gpu.check_output("supervisorctl pid qwen3vl")
    one = {**client.instance(), "limits": {"memory": "16G"}}
    run = site(vllm_instances=[one])
    assert run.code != 0
    assert "vllm_instances[0].limits.memory: supervisor cannot enforce" in run.messages
    assert not run.changed
    assert gpu.check_output("supervisorctl pid qwen3vl") == before


def test_a_dead_engine_is_replaced(subject: faults.Subject, measured: Callable[[str], None]) -> None:
    """vLLM ends with status 0 then: autorestart=true, and not `unexpected`, brings it back."""
    seen = faults.suffer(subject, "kill_engine")
    measured(f"kill -9 of the engine: serving again after {seen.seconds:.0f} s")


def test_a_killed_supervisord_is_replaced_and_leaves_no_orphan(
    subject: faults.Subject, measured: Callable[[str], None]
) -> None:
    before = subject.processes()
    runner = subject.on("supervisorctl pid qwen3vl").strip()
    subject.on("kill -KILL $(supervisorctl pid)")
    began = time.monotonic()
    assert subject.answers(), "what it ran serves on, until the next one takes over"
    subject.serves_again(before)
    measured(f"kill -9 of supervisord: serving again after {time.monotonic() - began:.0f} s")
    client.wait_until(lambda: subject.status()["verdict"] == "healthy", 60, "the keeper calls it healthy")
    subject.quiet()
    assert subject.on(f"test ! -d /proc/{runner} && echo gone").strip() == "gone"


def test_what_was_stopped_on_purpose_stays_stopped(subject: faults.Subject) -> None:
    subject.keeper("stop", subject.name)
    assert not subject.processes()
    assert "stopped" in subject.keeper("check", subject.name)
    assert "STOPPED" in subject.on("supervisorctl status qwen3vl", check=False)
