# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real vLLM in a session of tmux; then screen in its place, with the stand-in where real vLLM proves nothing more.

What differs most there. All faults: make faults. With the stand-in: tests/integration/test_keeper_sessions.py.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from testinfra.host import Host

from lab import client, faults
from lab.play import play

MANAGER = "tmux"
TMUX = "tmux -S /run/vllm-keeper/qwen3vl.tmux"
STANDIN = Path(__file__).resolve().parents[3] / "tests/standin"


def test_the_session_is_called_as_the_instance_and_runs_its_script(gpu: Host) -> None:
    assert gpu.check_output(f"{TMUX} list-sessions -F '#S'") == "qwen3vl"
    script = gpu.file("/etc/vllm/tmux/qwen3vl/start_server.sh")
    assert (script.user, script.mode) == ("root", 0o755)
    assert "exec /usr/local/bin/vllm-keeper run qwen3vl" in script.content_string
    assert not gpu.file("/etc/systemd/system/qwen3vl.service").exists


def test_the_terminal_and_the_log_show_the_server(gpu: Host, subject: faults.Subject) -> None:
    assert "Application startup complete" in gpu.check_output(f"{TMUX} capture-pane -p -S -3000 -t =qwen3vl:")
    assert "Application startup complete" in subject.keeper("logs", "-n", "2000", "qwen3vl")
    assert gpu.file("/var/log/vllm/qwen3vl.log").mode == 0o640


def test_nobody_takes_it_for_highly_available(subject: faults.Subject) -> None:
    said = subject.keeper("status", subject.name)
    assert "not highly available" in said
    assert "vllm-keeper attach qwen3vl" in said


def test_a_picture_is_answered(subject: faults.Subject) -> None:
    assert subject.sees_colours()


def test_by_hand_it_refuses_while_it_runs(gpu: Host, subject: faults.Subject) -> None:
    before = subject.processes()
    second = gpu.run("/etc/vllm/tmux/qwen3vl/start_server.sh")
    assert second.rc != 0
    assert "run already" in second.stderr
    assert subject.processes() == before


def test_it_is_in_nobody_s_login(gpu: Host, subject: faults.Subject) -> None:
    """logind ends what is in a session's scope, and cron's restart what is in cron's group."""
    for pid in subject.processes():
        assert "vllm-session-qwen3vl.service" in gpu.check_output(f"cat /proc/{pid}/cgroup")


def test_a_killed_tmux_comes_back_and_leaves_no_orphan(
    subject: faults.Subject, measured: Callable[[str], None]
) -> None:
    before = subject.processes()
    began = time.monotonic()
    subject.on("pkill -KILL -x 'tmux: server'")
    subject.serves_again(before)
    measured(f"kill -9 of tmux: serving again after {time.monotonic() - began:.0f} s")
    client.wait_until(lambda: subject.status()["verdict"] == "healthy", 60, "the keeper calls it healthy")
    subject.quiet()


def test_ctrl_c_drains_and_is_a_wish(subject: faults.Subject) -> None:
    subject.on(f"{TMUX} send-keys -t =qwen3vl: C-c")
    client.wait_until(lambda: subject.status()["verdict"] == "stopped", 120, "it has stopped")
    assert not subject.processes()
    # The unit's own look may be under way; neither it nor ours starts anything.
    subject.keeper("check", subject.name)
    time.sleep(5)
    subject.keeper("check", subject.name)
    assert subject.status()["verdict"] == "stopped"
    assert not subject.processes()


def test_screen_takes_over_and_leaves_nothing_of_tmux(
    gpu: Host, subject: faults.Subject, measured: Callable[[str], None]
) -> None:
    """With the stand-in, by a run of site.yml: what differs is the session, not the server."""
    subject.on("mkdir -p /srv/standin/bin")
    subprocess.run(["podman", "cp", f"{STANDIN}/.", f"{client.container('gpu1')}:/srv/standin/bin"], check=True)
    one = {**client.instance(), "extra_args": {}}
    run = play(
        *("-i", "molecule/tmux/inventory", "--limit", "gpu1,localhost"),
        variables={"service_manager": "screen", "service_release": "/srv/standin", "vllm_instances": [one]},
    )
    assert run.code == 0, run.messages
    assert not gpu.file("/etc/vllm/tmux/qwen3vl").exists
    assert not gpu.file("/run/vllm-keeper/qwen3vl.tmux").exists
    assert not gpu.run("pgrep -x 'tmux: server'").stdout
    assert "qwen3vl" in gpu.run("SCREENDIR=/run/vllm-keeper/qwen3vl.screen screen -ls").stdout
    before = subject.processes()
    began = time.monotonic()
    subject.signal("KILL", "api")
    client.wait_until(lambda: serves(subject) and not before & subject.processes(), 90, "it serves again")
    measured(f"screen, stand-in, kill -9 of the API: serving again after {time.monotonic() - began:.0f} s")
    subject.keeper("stop", subject.name)
    assert not subject.processes()
    survives_logout(subject)


def survives_logout(subject: faults.Subject) -> None:
    """Started in a login whose processes then all die, as with KillUserProcesses=yes."""
    left = "sleep 98765 & vllm-keeper start qwen3vl && exec loginctl terminate-session $XDG_SESSION_ID"
    subject.on(f"su -l root -c '{left}'", check=False)
    client.wait_until(lambda: not subject.on("pgrep -fx 'sleep 98765' || true"), 30, "the login's processes are dead")
    before = subject.processes()
    subject.on("systemctl restart cron")
    assert len(before) == 3
    assert subject.processes() == before
    assert serves(subject)


def serves(subject: faults.Subject) -> bool:
    """Whether /health is answered."""
    return subject.on("curl -sf -o /dev/null -w '%{http_code}' http://127.0.0.1:8000/health || true") == "200"
