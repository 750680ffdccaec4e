# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Servers under real tmux, screen and systemd in a host of the lab: found, ended, and nothing starts them again.

The server is a stand-in (tests/standin), since only how it was started matters here. Part of
`python -m pytest tests/lab`; takes seconds once the host is there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import typing as t
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STANDIN = ROOT / "tests" / "standin"
LAB = {
    "STEADFAST_LAB": os.environ.get("STEADFAST_LAB", "adopt"),
    "STEADFAST_LAB_NETWORK": os.environ.get("STEADFAST_LAB_NETWORK", "10.87.52"),
    "STEADFAST_LAB_HOSTS": "gpu1",
}
HOST = f"{LAB['STEADFAST_LAB']}-gpu1"
SERVE = "/opt/standin/vllm serve /opt/standin/model --port"


def inside(script: str, user: str = "root", check: bool = True) -> str:
    home = "/root" if user == "root" else f"/home/{user}"
    done = subprocess.run(
        ["podman", "exec", "-i", "-u", user, "-e", f"HOME={home}", "-w", "/", HOST, "bash", "-s"],
        input=script.encode(), check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    text = done.stdout.decode(errors="replace")
    assert not check or done.returncode == 0, f"{script}:\n{text}"
    return text


def module(name: str, **options: object) -> dict[str, t.Any]:
    """Through Ansible, on the host's own Python."""
    done = subprocess.run(
        ["ansible", "all", "-i", f"{HOST},", "-c", "containers.podman.podman", "-m", f"steadfast.vllm.{name}",
         "-e", "ansible_python_interpreter=/usr/bin/python3", "-a", json.dumps(options)],
        cwd=ROOT, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "ANSIBLE_STDOUT_CALLBACK": "json", "ANSIBLE_LOAD_CALLBACK_PLUGINS": "1",
             "ANSIBLE_DEPRECATION_WARNINGS": "0"},
    )  # fmt: skip
    told = json.loads(done.stdout[done.stdout.index("{") :])
    return t.cast("dict[str, t.Any]", told["plays"][0]["tasks"][0]["hosts"][HOST])


@pytest.fixture(scope="module")
def host() -> Iterator[None]:
    lab = [sys.executable, str(ROOT / "lab" / "lab.py")]
    if "running" not in inside("systemctl is-system-running", check=False):
        for verb in ("prepare", "up"):
            subprocess.run([*lab, verb], env={**os.environ, **LAB}, check=True)
    inside(
        "which tmux screen || { apt-get update && apt-get install -y --no-install-recommends tmux screen; }\n"
        "id ada || useradd -m -s /bin/bash ada\n"
        "mkdir -p /opt/standin/model && cd /opt/standin/model && echo '{}' >config.json && touch model.safetensors"
    )
    subprocess.run(["podman", "cp", f"{STANDIN}/.", f"{HOST}:/opt/standin"], check=True)
    yield
    if not os.environ.get("STEADFAST_KEEP"):
        subprocess.run([*lab, "down"], env={**os.environ, **LAB}, check=True)


def find(port: int) -> dict[str, t.Any]:
    end = time.monotonic() + 20
    while True:
        told = module("vllm_found_info", service_user="nobody")
        found = [server for server in told["servers"] if f"127.0.0.1 port {port}" in server["listening"]]
        if found or time.monotonic() > end:
            assert len(found) == 1, told
            return t.cast("dict[str, t.Any]", found[0])
        time.sleep(0.3)


def stop(server: dict[str, t.Any]) -> list[str]:
    told = module("vllm_takeover", identity=server["identity"], stage="stop", drain_timeout=10, service_user="nobody")
    assert "msg" not in told, told
    assert server["problems"] == []
    return t.cast("list[str]", told["did"])


def gone(port: int) -> bool:
    return inside(f"pgrep -f 'serve /opt/standin/model --port {port}'", check=False) == ""


def test_tmux(host: None) -> None:
    inside(f"tmux new-session -d -s llm; tmux send-keys -t llm '{SERVE} 8101' Enter", "ada")
    server = find(8101)
    assert (server["launch"]["kind"], server["started"], server["user"]) == ("tmux", "tmux session", "ada")
    assert any("closed its tmux window" in line for line in stop(server))
    assert gone(8101)
    assert "llm" not in inside("tmux ls", "ada", check=False)


def test_tmux_with_a_loop_typed_by_hand(host: None) -> None:
    inside(f"tmux new-session -d -s loop; tmux send-keys -t loop 'while :; do {SERVE} 8102; done' Enter", "ada")
    stop(find(8102))
    time.sleep(1)
    assert gone(8102)


def test_a_window_in_which_more_runs_stays(host: None) -> None:
    inside(f"tmux new-session -d -s two; tmux send-keys -t two 'sleep 543 & {SERVE} 8103' Enter", "ada")
    assert any("stays open: sleep" in line for line in stop(find(8103)))
    assert gone(8103)
    assert "two" in inside("tmux ls", "ada")
    inside("tmux kill-session -t two", "ada")


def test_screen(host: None) -> None:
    inside(f"screen -dmS llm bash -c '{SERVE} 8104; true'", "ada")
    server = find(8104)
    assert (server["launch"]["kind"], server["started"]) == ("screen", "screen session")
    stop(server)
    assert gone(8104)
    assert "llm" not in inside("screen -ls", "ada", check=False)


UNIT = f"""[Service]
User=ada
ExecStart={SERVE} %s --leave-engine
Restart=always
RestartSec=0
[Install]
WantedBy=multi-user.target
"""


def test_a_unit(host: None) -> None:
    inside(f"cat >/etc/systemd/system/old-llm.service <<'X'\n{UNIT % 8105}X\nsystemctl daemon-reload")
    inside("systemctl enable --now old-llm")
    server = find(8105)
    assert server["started"] == "systemd unit old-llm.service"
    did = stop(server)
    assert "disabled old-llm.service" in did
    assert "moved /etc/systemd/system/old-llm.service to /var/lib/steadfast/adopted/old-llm.service" in did
    time.sleep(1)
    assert gone(8105)
    assert "not-found" in inside("systemctl show -p LoadState old-llm", check=False)
    assert inside("ls /run/systemd/system/old-llm.service.d", check=False).startswith("ls: cannot")
    assert inside("cat /var/lib/steadfast/adopted/old-llm.service") == UNIT % 8105


def test_a_unit_of_one_run(host: None) -> None:
    inside(f"systemd-run --unit=once-llm -p Restart=always {SERVE} 8106")
    assert any("once-llm.service was made for one run" in line for line in stop(find(8106)))
    time.sleep(1)
    assert gone(8106)


def test_a_user_s_unit(host: None) -> None:
    unit = (UNIT % 8107).replace("User=ada\n", "").replace("multi-user", "default")
    inside(
        "loginctl enable-linger ada\n"
        "for i in $(seq 50); do test -S /run/user/$(id -u ada)/bus && break; sleep 0.2; done"
    )
    home = "/home/ada/.config/systemd/user"
    inside(f"mkdir -p {home} && cat >{home}/my-llm.service <<'X'\n{unit}\nX", "ada")
    systemctl = "XDG_RUNTIME_DIR=/run/user/$(id -u) systemctl --user"
    inside(f"{systemctl} daemon-reload && {systemctl} enable --now my-llm", "ada")
    server = find(8107)
    assert server["launch"]["kind"] == "user-unit"
    did = stop(server)
    assert f"moved {home}/my-llm.service to {home}/my-llm.service.adopted" in did
    time.sleep(1)
    assert gone(8107)
    inside("loginctl disable-linger ada")
