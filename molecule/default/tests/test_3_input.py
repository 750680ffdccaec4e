# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bad input: a clear message, and nothing on the hosts changed (compared before the first and after the last)."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import pytest

from lab import client
from lab.play import play

pytestmark = pytest.mark.usefixtures("untouched")

INSTANCE: dict[str, Any] = client.instance()
PRODUCTION_LOCK = "roles/vllm/files/locks/vllm-0.32.0-cu130.txt"


def instances(**changes: Any) -> dict[str, Any]:
    """The lab's instance with some keys changed."""
    return {"vllm_instances": [{**INSTANCE, **changes}]}


# What is told together is broken together: each case is a run of site.yml.
CASES = {
    "two instances with one port": (
        {"vllm_instances": [INSTANCE, {**INSTANCE, "name": "second", "gpus": []}]},
        ["vllm_instances[1].port", "8000"],
    ),
    "unknown key, port 70000, gpu_memory_utilization 1.5 and options that vLLM has not": (
        instances(
            prot=8001,
            port=70000,
            gpu_memory_utilization=1.5,
            extra_args={"enfroce-eager": True, "dtype": "fp32"},
        ),
        [
            *["vllm_instances[0].extra_args.enfroce-eager", "did you mean enforce-eager?"],
            *["vllm_instances[0].extra_args.dtype: vllm serve 0.32.0 takes one of auto, bfloat16"],
            *["vllm_instances[0].prot", "did you mean port?", "vllm_instances[0].port", "70000", "65535"],
            *["vllm_instances[0].gpu_memory_utilization", "1.5"],
        ],
    ),
    "model folder missing, and a vLLM for CUDA where no GPU is": (
        {**instances(model="/srv/no-such-model"), "vllm_lock_file": str(client.ROOT / PRODUCTION_LOCK)},
        ["/srv/no-such-model", "built for CUDA 13.0, and there is no NVIDIA GPU in this machine"],
    ),
    "Debian 12's own driver under a vLLM for CUDA 13": (
        {
            "vllm_lock_file": str(client.ROOT / PRODUCTION_LOCK),
            "nvidia_driver_source": "distribution",
            # There is no GPU and no package for the kernel of all hosts: as for an image that will run elsewhere.
            "nvidia_driver_without_gpu": "install",
            "nvidia_driver_kernel": f"cloud-{'arm64' if platform.machine() == 'aarch64' else 'amd64'}",
        },
        ["the driver 535.", "is too old for a vLLM that is built for CUDA 13.0", "nvidia_driver_source: nvidia"],
    ),
    "a driver for a host without a GPU": (
        {"nvidia_driver_source": "distribution"},
        ["nvidia_driver_without_gpu: fail: no PCI device of this machine is an NVIDIA GPU"],
    ),
    "health timeout not below its interval, path without a slash, matcher 600": (
        {"vllm_health_check": {"interval": 5, "timeout": 5, "path": "health", "matcher": "600"}},
        [
            *["vllm_health_check.timeout: 5 is not below vllm_health_check.interval 5"],
            *["vllm_health_check.path: 'health'", "vllm_health_check.matcher: '600'"],
        ],
    ),
    "a release below the security floor": ({"vllm_minimum_version": "99.0.0"}, ["99.0.0", "0.32.0"]),
    "a target group that is not there": ({"vllm_target_groups": ["no-such-group"]}, ["no-such-group"]),
    "disk too small": (
        {"vllm_root": "/opt/elsewhere", "vllm_release_bytes": 10**16},
        ["disk[/opt/elsewhere]", "TiB more than is free"],
    ),
}


# What the controller itself checks, before it looks at any host.
FLEET_WIDE = {case for case in CASES if "health" in case or case == "a target group that is not there"}


@pytest.mark.parametrize("case", list(CASES))
def test_bad_input_is_refused_before_anything_changes(case: str) -> None:
    variables, words = CASES[case]
    run = play(*([] if case in FLEET_WIDE else ["--limit", "gpu1"]), variables=variables)
    assert run.failed, f"{case}: nothing failed"
    assert not run.changed, run.changed
    print(run.messages)
    for word in words:
        assert word in run.messages, run.messages
    assert "Traceback" not in run.messages


def test_a_port_that_another_program_holds() -> None:
    client.on("gpu1", "systemd-run", "--unit=squatter", "python3", "-m", "http.server", "8111")
    try:
        client.wait_until(lambda: ":8111 " in client.on("gpu1", "ss", "-Hltn"), 20, "the squatter listens")
        run = play("--limit", "gpu1", variables=instances(port=8111))
    finally:
        client.on("gpu1", "systemctl", "stop", "squatter")
    assert run.failed
    assert not run.changed
    for word in ("8111", "python3", "gpu1" if "gpu1" in run.messages else "port"):
        assert word in run.messages, run.messages


def test_a_lock_with_one_flipped_digit(tmp_path: Path) -> None:
    text = Path(client.state()["lock"]).read_text()
    # The release's own package has one file, so its one hash is the one that counts.
    place = text.index("sha256:", text.index("\nvllm==")) + len("sha256:")
    flipped = tmp_path / "flipped.txt"
    flipped.write_text(text[:place] + ("0" if text[place] != "0" else "1") + text[place + 1 :])
    before = client.on("gpu1", "readlink", "/opt/vllm/current")
    pid = client.on("gpu1", "systemctl", "show", "-P", "MainPID", "qwen3vl")
    run = play("--limit", "gpu1", variables={"vllm_lock_file": str(flipped)})
    assert run.failed
    assert "hash" in run.messages.lower(), run.messages
    assert client.on("gpu1", "readlink", "/opt/vllm/current") == before
    assert client.on("gpu1", "systemctl", "show", "-P", "MainPID", "qwen3vl") == pid


def test_not_root() -> None:
    run = play(
        "--limit",
        "gpu1",
        variables={
            "ansible_become": True,
            "ansible_become_user": "nobody",
            "ansible_become_method": "ansible.builtin.sudo",
        },
    )
    assert run.failed
    assert not run.changed
    assert "root" in run.messages, run.messages


PLAN9 = """
printf 'ID=plan9\nVERSION_ID=4\nPRETTY_NAME="Plan 9"\n' > /run/os-release
mount --bind /run/os-release /etc/os-release
"""


def test_an_unsupported_distribution() -> None:
    release = client.on("gpu1", "cat", "/etc/os-release")
    client.on("gpu1", "sh", "-c", PLAN9)
    try:
        run = play("--limit", "gpu1")
    finally:
        client.on("gpu1", "umount", "/etc/os-release")
    assert client.on("gpu1", "cat", "/etc/os-release") == release
    assert run.failed
    assert not run.changed
    assert "Plan 9" in run.messages or "plan9" in run.messages, run.messages
