# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Servers that somebody runs in containers, under a real Docker Engine and a real podman in a host of the lab: found,
taken over by playbooks/adopt.yml, and never started again; or refused.

The server is a stand-in (tests/standin), in an image on the lab's own root filesystem and in the managed release alike,
since only adoption matters here. Part of `python -m pytest tests/lab`; a few minutes, most of them Docker's own.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import time
import typing as t
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STANDIN = ROOT / "tests" / "standin"
LAB = {
    "STEADFAST_LAB": os.environ.get("STEADFAST_LAB", "adopt"),
    "STEADFAST_LAB_NETWORK": os.environ.get("STEADFAST_LAB_NETWORK", "10.87.52"),
    "STEADFAST_LAB_HOSTS": "docker1",
}
HOST = f"{LAB['STEADFAST_LAB']}-docker1"
KEY = "S3CRET-of-the-server"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
CACHE = "/root/.cache/huggingface"
IMAGE = "vllm-standin:1"
# Its own, since the lab's hosts find a vLLM for the CPU too.
VERSION = "0.32.0+standin"
# As vLLM's documentation has it.
RUN = f"-v {CACHE}:{CACHE} -e VLLM_API_KEY={KEY}"
SERVE = f"{IMAGE} --model lab/tiny --max-model-len 1000"
PREPARE = f"""
set -eu
export DEBIAN_FRONTEND=noninteractive
apt-get update >/dev/null
apt-get install -y --no-install-recommends docker.io docker-cli iptables podman runc netavark nftables >/dev/null
# On a disk, since overlayfs does not stand on overlayfs; runc, since crun wants other control groups than the lab's.
mkdir -p /etc/containers /var/lib/docker/podman
printf '[storage]\\ndriver="overlay"\\nrunroot="/run/containers/storage"\\ngraphroot="/var/lib/docker/podman"\\n' \
  >/etc/containers/storage.conf
printf '[engine]\\nruntime="runc"\\n[containers]\\ncgroupns="host"\\n' >/etc/containers/containers.conf
hub={CACHE}/hub/models--lab--tiny
mkdir -p $hub/refs $hub/blobs $hub/snapshots/{COMMIT}
printf %s {COMMIT} >$hub/refs/main
for file in config.json model.safetensors; do
  echo '{{}}' >$hub/blobs/blob-$file
  ln -sfn ../../blobs/blob-$file $hub/snapshots/{COMMIT}/$file
done
docker load -q -i /srv/lab/docker/base.tar
docker create --name seed "$(docker images -q | head -1)" true
docker cp -q /opt/standin/. seed:/usr/local/bin/
docker commit --change 'ENTRYPOINT ["vllm", "serve"]' --change 'CMD []' seed {IMAGE}
docker rm seed
docker save {IMAGE} | podman load -q
"""
INVENTORY = """\
---
vllm:
  hosts:
    docker1:
      ansible_host: {host}
      ansible_connection: containers.podman.podman
      ansible_python_interpreter: /usr/bin/python3
  vars:
    vllm_lock_file: {lock}
    vllm_install_environment: {{UV_NO_INDEX: "1", UV_FIND_LINKS: /srv/standin}}
    vllm_packages: []
    vault_tiny_api_key: {key}
"""


def podman(*words: str, given: str | None = None, check: bool = True) -> str:
    done = subprocess.run(
        ["podman", *words], input=given, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        errors="replace",
    )  # fmt: skip
    assert not check or done.returncode == 0, f"{given or words}:\n{done.stdout}"
    return done.stdout


def inside(script: str, check: bool = True) -> str:
    return podman("exec", "-i", "-w", "/", HOST, "bash", "-s", given=script, check=check)


def ansible(*words: str, **environment: str) -> tuple[int, str]:
    done = subprocess.run(
        words, cwd=ROOT, check=False, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, env={**os.environ, **environment},
    )  # fmt: skip
    return done.returncode, done.stdout


def module(name: str, **options: object) -> dict[str, t.Any]:
    """Through Ansible, on the host's own Python."""
    _status, text = ansible(
        "ansible", "all", "-i", f"{HOST},", "-c", "containers.podman.podman", "-m", f"steadfast.vllm.{name}",
        "-e", "ansible_python_interpreter=/usr/bin/python3", "-a", json.dumps(options),
        ANSIBLE_STDOUT_CALLBACK="json", ANSIBLE_LOAD_CALLBACK_PLUGINS="1", ANSIBLE_DEPRECATION_WARNINGS="0",
    )  # fmt: skip
    assert KEY not in text
    told = json.loads(text[text.index("{") :])
    return t.cast("dict[str, t.Any]", told["plays"][0]["tasks"][0]["hosts"][HOST])


def wheel(folder: Path) -> Path:
    """The stand-in as a package that installs `vllm`: the managed release is made as any other, from a lock."""
    release = f"vllm-{VERSION}"
    files = {
        f"{release}.data/scripts/vllm": b"#!python\n" + (STANDIN / "vllm").read_bytes().partition(b"\n")[2],
        f"{release}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}\n".encode(),
        f"{release}.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        # beside its program, where its engine looks
        **{
            f"{release}.data/data/bin/vllm_standin/{path.name}": path.read_bytes()
            for path in (STANDIN / "vllm_standin").glob("*.py")
        },
    }
    record = f"{release}.dist-info/RECORD"
    lines = []
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        lines.append(f"{name},sha256={digest},{len(content)}")
    made = folder / f"{release}-py3-none-any.whl"
    with zipfile.ZipFile(made, "w") as archive:
        for name, content in {**files, record: "\n".join([*lines, f"{record},,", ""]).encode()}.items():
            archive.writestr(name, content)
    return made


@pytest.fixture(scope="module")
def inventory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The host, with both engines and the image; and a user's inventory of it."""
    folder = tmp_path_factory.mktemp("inventory")
    lab = [sys.executable, str(ROOT / "lab" / "lab.py")]
    made = wheel(tmp_path_factory.mktemp("wheel"))
    if IMAGE not in inside("docker images --format '{{.Repository}}:{{.Tag}}'", check=False).split():
        for verb in ("check", "prepare", "down", "up"):
            subprocess.run([*lab, verb], env={**os.environ, **LAB}, check=True)
        inside("mkdir -p /opt/standin /srv/standin")
        podman("cp", f"{STANDIN}/.", f"{HOST}:/opt/standin")
        inside(PREPARE)
    podman("cp", str(made), f"{HOST}:/srv/standin/")
    lock = folder.parent / "standin.txt"
    lock.write_text(f"vllm=={VERSION} --hash=sha256:{hashlib.sha256(made.read_bytes()).hexdigest()}\n")
    (folder / "hosts.yml").write_text(INVENTORY.format(host=HOST, lock=lock, key=KEY))
    yield folder
    if not os.environ.get("STEADFAST_KEEP"):
        subprocess.run([*lab, "down"], env={**os.environ, **LAB}, check=True)


@pytest.fixture(autouse=True)
def no_container_left(inventory: Path) -> Iterator[None]:
    yield
    for engine in ("docker", "podman"):
        inside(f"{engine} ps -aq | xargs -r {engine} rm -f")


def adopt(inventory: Path, confirm: str) -> tuple[int, str]:
    status, text = ansible(
        "ansible-playbook", "playbooks/adopt.yml", "-i", str(inventory), "-e", f"adopt_confirm={confirm}"
    )
    assert KEY not in text
    print(text)
    return status, re.sub(r"\s+", " ", text)


def until(true: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, inside("docker ps -a; podman ps -a; journalctl -n 30 --no-pager")
        time.sleep(0.3)


def models(port: int = 8000, key: str = KEY) -> str:
    """What the server at a port says it serves to the one who has the key."""
    said = inside(f"curl -s -m 5 -H 'Authorization: Bearer {key}' http://127.0.0.1:{port}/v1/models", check=False)
    try:
        return ",".join(model["id"] for model in json.loads(said)["data"])
    except (ValueError, KeyError):
        return ""


def completes(port: int = 8000) -> bool:
    body = json.dumps({"model": "lab/tiny", "prompt": "red", "max_tokens": 3})
    said = inside(
        f"curl -s -m 5 -H 'Authorization: Bearer {KEY}' -H 'Content-Type: application/json' -d '{body}' "
        f"http://127.0.0.1:{port}/v1/completions",
        check=False,
    )
    return "choices" in said


def servers(port: int = 8000) -> list[str]:
    """The command lines of all servers and what belongs to them."""
    return [line for line in inside("ps axo args").splitlines() if re.search(r"vllm serve |^VLLM::", line)]


def find() -> dict[str, t.Any]:
    told = module("vllm_found_info", service_user="nobody")
    assert len(told["servers"]) == 1, told
    return t.cast("dict[str, t.Any]", told["servers"][0])


def stop(server: dict[str, t.Any]) -> list[str]:
    assert server["problems"] == []
    told = module("vllm_takeover", identity=server["identity"], stage="stop", drain_timeout=10, service_user="nobody")
    assert "msg" not in told, told
    return t.cast("list[str]", told["did"])


# -- one by one, before anything is managed there ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (f"{RUN} {SERVE}", "its container publishes it nowhere on this host"),
        (f"-p 8000:8000 -p 8001:8000 {RUN} {SERVE}", "port 8000, 0.0.0.0 port 8001, and an instance listens at one"),
        (f"-p 8000:8000 {RUN} {IMAGE} --model /usr/local/bin/vllm_standin --max-model-len 9",
         "/usr/local/bin/vllm_standin is inside the container alone: copy it to the host"),
    ],
)  # fmt: skip
def test_what_is_refused_goes_on(inventory: Path, options: str, why: str) -> None:
    inside(f"docker run -d --name vllm-by-hand --restart unless-stopped {options}")
    until(lambda: len(servers()) == 3)
    before = inside("docker inspect -f '{{.State.Pid}} {{.HostConfig.RestartPolicy.Name}}' vllm-by-hand")
    status, text = adopt(inventory, "docker1")
    assert status != 0
    assert "nothing was changed" in text
    assert why in text
    assert inside("docker inspect -f '{{.State.Pid}} {{.HostConfig.RestartPolicy.Name}}' vllm-by-hand") == before
    assert inside("ls -d /opt/vllm /etc/vllm 2>/dev/null", check=False) == ""
    assert not (inventory / "host_vars").exists()


def test_one_that_a_unit_runs_is_refused(inventory: Path) -> None:
    inside(f"systemd-run --unit=my-llm -p Restart=always docker run --rm --name llm -p 8000:8000 {RUN} {SERVE}")
    until(models)
    (problem,) = find()["problems"]
    inside("systemctl stop my-llm")
    assert problem.startswith("its container is run by the systemd unit my-llm.service, which would start it again")


def test_a_loop_around_docker_run_ends_with_it(inventory: Path) -> None:
    """--rm takes the container away before anybody could stop it, and the script would start the next one."""
    loop = f"while :; do docker run --rm -p 8000:8000 {RUN} {SERVE}; done"
    inside(f"echo '{loop}' >/root/loop.sh; setsid -f nohup bash /root/loop.sh >/dev/null 2>&1 </dev/null")
    until(models)
    server = find()
    assert any("was started with --rm" in note for note in server["notes"])
    did = stop(server)
    assert any("drained and ended" in line for line in did)
    assert any("ended bash" in line for line in did)
    time.sleep(2)
    assert servers() == []
    assert inside("docker ps -aq") == ""
    assert inside("pgrep -f '[l]oop.sh|[d]ocker run'", check=False) == ""


def test_podman(inventory: Path) -> None:
    inside(f"podman run -d --name vllm-by-hand --restart always -p 8000:8000 {RUN} docker.io/library/{SERVE}")
    until(models)
    server = find()
    assert server["launch"]["runtime"] == "podman"
    assert (server["model"]["kind"], server["model"]["commit"]) == ("snapshot", COMMIT)
    assert server["entry"]["port"] == 8000
    did = stop(server)
    assert "set the restart policy of container vllm-by-hand from always to no" in did
    time.sleep(2)
    assert servers() == []
    inside("systemctl start podman-restart.service")
    assert servers() == []


# -- the whole way ----------------------------------------------------------------------------------------------------


def test_docker(inventory: Path) -> None:
    inside(f"docker run -d --name vllm-by-hand --restart unless-stopped -p 8000:8000 {RUN} {SERVE}")
    until(models)
    pid = inside("docker inspect -f '{{.State.Pid}}' vllm-by-hand").strip()
    # Shown and written for review; nothing else happens.
    status, text = adopt(inventory, "nobody")
    assert status == 0
    assert f"vLLM server, pid {pid}, user root: docker container" in text
    assert f"lab/tiny at {COMMIT[:12]}, in {CACHE}/hub/models--lab--tiny/snapshots/{COMMIT}" in text
    review = inventory / "host_vars" / "_adopted" / "docker1.yml"
    entry = review.read_text()
    for line in ("model: lab/tiny", f"revision: {COMMIT}", "port: 8000", "max_model_len: 1000",
                 'api_key: "{{ vault_tiny_api_key }}"'):  # fmt: skip
        assert line in entry
    assert KEY not in entry
    assert inside("docker inspect -f '{{.State.Pid}}' vllm-by-hand").strip() == pid
    # Taken over.
    status, text = adopt(inventory, "docker1")
    assert status == 0
    assert f"pid {pid} drained and ended in" in text
    assert "set the restart policy of container vllm-by-hand from unless-stopped to no" in text
    assert models() == "lab/tiny"
    assert models(key="another") == ""
    assert completes()
    assert inside("systemctl is-enabled tiny; systemctl is-active tiny vllm-keeper").split() == [
        "enabled",
        "active",
        "active",
    ]
    weights = f"/var/lib/vllm/models/lab--tiny/{COMMIT}/model.safetensors"
    assert inside(f"stat -Lc %h {weights}").strip() == "2"  # the very file of the user's cache
    # Nothing of the old one, and nothing starts it again.
    state = "docker inspect -f '{{.State.Status}} {{.HostConfig.RestartPolicy.Name}}' vllm-by-hand"
    assert inside(state).split() == ["exited", "no"]
    main = inside("systemctl show -p MainPID --value tiny")
    inside("systemctl restart docker")
    time.sleep(5)
    assert inside(state).split() == ["exited", "no"]
    assert len(servers()) == 3
    assert inside("pgrep -f '[d]ocker-proxy|[c]ontainerd-shim'", check=False) == ""
    assert inside("systemctl show -p MainPID --value tiny") == main
    # The resident keeper, which came with the managed one, has nothing against it.
    until(lambda: json.loads(inside("vllm-keeper status --json tiny"))["instances"][0]["verdict"] == "healthy")
    assert completes()
    # And that is all: once more changes nothing.
    status, text = adopt(inventory, "docker1")
    assert status == 0
    assert "is managed by this collection already" in text
    assert "changed=0" in text
    assert not re.search(r"changed=[1-9]", text)
