# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the roles leave on the hosts."""

from __future__ import annotations

import json

import pytest
from testinfra.host import Host

from lab import client


def test_the_service_user_cannot_log_in(gpu: Host) -> None:
    user = gpu.user("vllm")
    assert user.exists
    assert user.shell.endswith("nologin")
    assert user.uid < 1000


def test_the_release_is_current_and_locked(gpu: Host) -> None:
    current = gpu.file("/opt/vllm/current")
    assert current.is_symlink
    assert current.linked_to.startswith("/opt/vllm/releases/0.32.0")
    version = gpu.check_output(
        "/opt/vllm/current/bin/python -c \"import importlib.metadata as m; print(m.version('vllm'))\""
    )
    assert version.startswith("0.32.0")


def test_extra_args_are_judged_by_what_the_installed_vllm_takes() -> None:
    script = (client.ROOT / "scripts/serve_options.py").read_text()
    said = json.loads(client.on("gpu1", "/opt/vllm/current/bin/python", "-c", script, timeout=300))
    listed = client.ROOT / f"roles/vllm/files/options/vllm-{said['version']}.json"
    assert json.loads(listed.read_text()) == said


def test_uv_is_pinned(gpu: Host) -> None:
    assert gpu.check_output("/usr/local/bin/uv --version").startswith("uv 0.1")


def test_files_have_the_right_owner_and_mode(gpu: Host) -> None:
    for path, mode in (
        ("/etc/vllm/qwen3vl.yaml", 0o644),
        ("/etc/vllm/qwen3vl.env", 0o600),
        ("/etc/systemd/system/qwen3vl.service", 0o644),
        ("/etc/vllm-keeper/qwen3vl.json", 0o644),
        ("/etc/cron.d/vllm-keeper", 0o644),
        ("/var/lib/steadfast/service.json", 0o600),
    ):
        file = gpu.file(path)
        assert (file.exists, file.user, file.mode) == (True, "root", mode), path


def test_the_unit_runs_as_the_guide_says(gpu: Host) -> None:
    assert gpu.service("qwen3vl").is_running
    assert gpu.service("qwen3vl").is_enabled
    shown = dict(line.split("=", 1) for line in gpu.check_output("systemctl show qwen3vl").splitlines() if "=" in line)
    assert shown["Restart"] == "always"
    assert shown["RestartUSec"] == "10s"
    assert shown["StartLimitIntervalUSec"] == "0"
    assert shown["KillMode"] == "mixed"
    assert shown["User"] == "vllm"
    assert shown["NeedDaemonReload"] == "no"


def test_start_returned_after_a_completion(gpu: Host) -> None:
    journal = gpu.check_output(
        "journalctl -u qwen3vl -o json --no-pager --output-fields=MESSAGE,CODE_FUNC,JOB_RESULT,SYSLOG_IDENTIFIER"
    )
    messages = [str(json.loads(line).get("MESSAGE", "")) for line in journal.splitlines()]
    completion = max(
        i
        for i, message in enumerate(messages)
        if "POST /v1/completions" in message and "200" in message and i < _last_started(messages)
    )
    assert completion < _last_started(messages)


def _last_started(messages: list[str]) -> int:
    return max(i for i, message in enumerate(messages) if message.startswith("Started "))


def test_vllm_never_runs_as_root(gpu: Host) -> None:
    owners = {row.user for row in gpu.process.filter() if "VLLM::" in row.args or "vllm serve" in row.args}
    assert owners == {"vllm"}


@pytest.mark.parametrize("host", ["gpu1", "gpu2"])
def test_one_server_and_one_engine_run(host: str) -> None:
    names = list(client.processes(host).values())
    assert sum("vllm serve" in name for name in names) == 1
    assert sum("VLLM::EngineCore" in name for name in names) == 1


def test_the_keeper_says_healthy(gpu: Host) -> None:
    status = json.loads(gpu.check_output("vllm-keeper status --json"))
    assert [(row["name"], row["verdict"]) for row in status["instances"]] == [("qwen3vl", "healthy")]


def test_check_finds_nothing_to_do(gpu: Host) -> None:
    pid = gpu.check_output("systemctl show -P MainPID qwen3vl")
    assert gpu.run("vllm-keeper check").rc == 0
    assert gpu.check_output("systemctl show -P MainPID qwen3vl") == pid


def test_the_keeper_stays_and_tells_whether_it_is_ready(gpu: Host) -> None:
    service = gpu.service("vllm-keeper")
    assert service.is_enabled
    assert service.is_running
    assert gpu.check_output("curl -sf http://127.0.0.1:9410/ready/qwen3vl") == "qwen3vl: ready: healthy"
    assert 'vllm_keeper_ready{instance="qwen3vl"} 1' in gpu.check_output("curl -sf http://127.0.0.1:9410/metrics")


def test_the_keeper_works_when_the_environment_of_vllm_is_gone(gpu: Host) -> None:
    hidden = "unshare --mount sh -c 'mount -t tmpfs none /opt/vllm && vllm-keeper status --json'"
    assert json.loads(gpu.check_output(hidden))["instances"][0]["verdict"] == "healthy"


def test_the_cron_line(gpu: Host) -> None:
    lines = [
        line for line in gpu.file("/etc/cron.d/vllm-keeper").content_string.splitlines() if "vllm-keeper check" in line
    ]
    assert len(lines) == 1
    assert lines[0].startswith("*/5 * * * * root ")
    assert gpu.service("cron").is_running


@pytest.mark.parametrize("name", ["gpu1", "gpu2"])
def test_a_secret_reaches_the_server_and_nobody_else(hosts: dict[str, Host], name: str) -> None:
    gpu, secret = hosts[name], client.instance()["env"]["LAB_SECRET"]
    assert secret in gpu.file("/etc/vllm/qwen3vl.env").content_string
    api = min(client.processes(name))
    assert secret in gpu.check_output("tr '\\0' '\\n' < /proc/%s/environ", str(api))
    assert secret not in gpu.check_output("ps -eo args")
    assert secret not in gpu.check_output("journalctl --no-pager -q")
    holding = gpu.run("grep -rls -- %s /etc /opt/vllm-keeper /var/lib/steadfast /var/lib/vllm-keeper /var/log", secret)
    assert holding.stdout.split() == ["/etc/vllm/qwen3vl.env"]
    assert gpu.file("/etc/vllm/qwen3vl.env").mode == 0o600


def test_haproxy_listens_where_it_should(hosts: dict[str, Host], lab: client.Lab) -> None:
    balancer = hosts["lb1"]
    assert balancer.service("haproxy").is_running
    assert balancer.service("haproxy").is_enabled
    assert (
        balancer.socket(f"tcp://0.0.0.0:{lab.port}").is_listening
        or balancer.socket(f"tcp://:::{lab.port}").is_listening
    )
    assert balancer.socket("tcp://127.0.0.1:8404").is_listening
    assert not balancer.socket("tcp://0.0.0.0:8404").is_listening
    assert balancer.run("haproxy -c -f /etc/haproxy/haproxy.cfg").rc == 0
