# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the reader of GPUs comes onto a host: the role's tasks, its lock, the index; then NVML as this machine has it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.steadfast.vllm.plugins.plugin_utils import _lock
from vllm_keeper.signals import gpu, gpu_reader

TOP = Path(__file__).parents[2]
LOCK = TOP / "roles/health/files/gpu/requirements.txt"
SYSTEM_PYTHON = "/usr/bin/python3"
RECAP = re.compile(r"localhost\s+:\s+ok=(\d+)\s+changed=(\d+)\s+unreachable=0\s+failed=(\d+)\s+skipped=(\d+)")
DEVICES = Path("/sys/bus/pci/devices")


def play(folder: Path, wanted: object, *options: str) -> tuple[dict[str, int], str]:
    """The role's tasks for GPUs on this machine, with everything in FOLDER."""
    variables: dict[str, Any] = {
        "health_gpu": wanted,
        "health_gpu_root": str(folder / "gpu"),
        "health_gpu_lock_file": "gpu/requirements.txt",
        "health_gpu_uv": shutil.which("uv"),
        "health_gpu_install_environment": {},
        "ansible_python_interpreter": SYSTEM_PYTHON,
    }
    include = {"name": "steadfast.vllm.health", "tasks_from": "gpu"}
    tasks = [{"name": "Bring the reader", "ansible.builtin.include_role": include}]
    book = folder / "book.yml"
    book.write_text(
        json.dumps([{"hosts": "localhost", "gather_facts": False, "vars": variables, "tasks": tasks}]), encoding="utf-8"
    )
    done = subprocess.run(
        [Path(sys.prefix, "bin", "ansible-playbook"), "-i", "localhost,", "-c", "local", *options, book],
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(TOP / ".collections"), "ANSIBLE_NOCOLOR": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout + done.stderr
    recap = RECAP.search(said)
    assert recap is not None and done.returncode == 0, said
    return dict(zip(("ok", "changed", "failed", "skipped"), map(int, recap.groups()))), said


def test_the_lock_names_no_address() -> None:
    text = LOCK.read_text(encoding="utf-8")
    lock = _lock.parse(text)
    assert "://" not in text and len(lock.pins) == 1
    wanted = LOCK.with_suffix(".in").read_text(encoding="utf-8")
    assert f"nvidia-ml-py=={lock.version_of('nvidia-ml-py')}\n" in wanted


def test_installed_used_and_removed(tmp_path: Path) -> None:
    expected, _said = play(tmp_path, "on", "--check")
    assert expected["changed"] == 1 and not (tmp_path / "gpu").exists()
    built, _said = play(tmp_path, "on")
    assert built["changed"] == 1
    # As YAML reads an unquoted `on`.
    again, _said = play(tmp_path, True)
    assert again["changed"] == 0

    reader = gpu_reader.Reader(gpu.Settings(python=str(tmp_path / "gpu/current/bin/python"), deadline=60))
    readings = reader.read()
    reader.close()
    # The library is there; what is missing, if anything, is a driver or a GPU.
    assert (readings.state, readings.missing) in ((gpu.OK, ""), (gpu.ABSENT, "driver"), (gpu.ABSENT, "gpu")), readings
    assert readings.state != gpu.OK or (readings.driver and readings.gpus)

    gone, _said = play(tmp_path, False)
    assert gone["changed"] == 1 and not (tmp_path / "gpu").exists()


def test_auto_follows_the_devices_of_the_host(tmp_path: Path) -> None:
    there = any(vendor.read_text(encoding="ascii").strip() == "0x10de" for vendor in DEVICES.glob("*/vendor"))
    counted, said = play(tmp_path, "auto")
    assert (tmp_path / "gpu/current").exists() is there, said
    assert counted["changed"] == (1 if there else 0)
    assert counted["ok"] >= 1  # it looked


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root: another file in the place of sysfs")
def test_auto_finds_a_device(tmp_path: Path) -> None:
    """A machine with an NVIDIA device, as the tasks see it: sysfs is replaced for them alone, in a mount namespace."""
    device = tmp_path / "pci/devices/0000:3b:00.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text("0x10de\n", encoding="ascii")
    tasks = (TOP / "roles/health/tasks/gpu.yml").read_text(encoding="utf-8")
    (command,) = re.findall(r"(?m)^    cmd: (.+)$", tasks)
    bind = f"mount --bind {tmp_path / 'pci'} /sys/bus/pci && {command}"
    done = subprocess.run(["unshare", "--mount", "sh", "-c", bind], capture_output=True, text=True, check=False)
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no mount namespaces here: {done.stderr}")
    assert done.returncode == 0
    (device / "vendor").write_text("0x1002\n", encoding="ascii")
    assert subprocess.run(["unshare", "--mount", "sh", "-c", bind], check=False).returncode == 1
