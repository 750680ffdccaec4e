# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a container's engine says of it, as docker 26 and podman 5 say it."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.steadfast.vllm.plugins.module_utils import _adopt_container, _adopt_look
from ansible_collections.steadfast.vllm.plugins.module_utils._adopt_launch import Process

IDENTITY = "4d0bb485a6bb" + "0" * 52
PORTS = {"8000/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8000"}, {"HostIp": "::", "HostPort": "8000"}]}
SESSION = "/user.slice/user-0.slice/session-3.scope"


def told(labels: dict[str, str] | None = None, ports: object = None, pod: str = "", **host: t.Any) -> dict[str, t.Any]:
    return {
        "Id": IDENTITY,
        "Name": "/llm",
        "Pod": pod,
        "Config": {"Labels": labels, "Image": "vllm/vllm-openai:v0.32.0"},
        "HostConfig": {"NetworkMode": "bridge", "RestartPolicy": {"Name": "unless-stopped"}, **host},
        "NetworkSettings": {"Ports": PORTS if ports is None else ports},
    }


@pytest.mark.parametrize(
    ("ports", "network", "places"),
    [
        (PORTS, "bridge", [("", 8000)]),
        ({"8000/tcp": [{"HostIp": "", "HostPort": "9000"}]}, "podman", [("", 9000)]),
        ({"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8000"}]}, "bridge", [("127.0.0.1", 8000)]),
        ({"8000/tcp": [{"HostPort": "8000"}, {"HostPort": "8001"}]}, "bridge", [("", 8000), ("", 8001)]),
        ({"8000/tcp": None}, "bridge", []),
        ({"8001/tcp": [{"HostPort": "8000"}]}, "bridge", []),
        ({}, "host", [("", 8000)]),
    ],
)
def test_where_a_port_is_published(ports: object, network: str, places: list[tuple[str, int]]) -> None:
    assert _adopt_container.published(told(ports=ports, NetworkMode=network), 8000) == places


@pytest.mark.parametrize(
    ("container", "why"),
    [
        (told({"PODMAN_SYSTEMD_UNIT": "llm.service"}), "run by the systemd unit llm.service"),
        (told({"com.docker.swarm.service.name": "llm"}), "docker service rm llm"),
        (told(pod="f00d" * 16), "part of the podman pod f00df00df00d"),
        (told(NetworkMode="container:" + IDENTITY), "in the network of another container"),
    ],
)
def test_what_cannot_be_taken_over(container: dict[str, t.Any], why: str) -> None:
    (problem,) = _adopt_container.hindrances(container)
    assert why in problem


def test_a_plain_container_is_taken_over_without_a_word() -> None:
    assert list(_adopt_container.hindrances(told())) == []
    assert list(_adopt_container.notes(told())) == []


@pytest.mark.parametrize(
    ("container", "note"),
    [
        (told(AutoRemove=True), "container llm was started with --rm"),
        (told(Memory=1 << 33, NanoCpus=0, CpuQuota=50000), "--memory, --cpu-quota of container llm: not carried over"),
        (told(NetworkMode="webui_default"), "containers of the network webui_default that reach it as llm"),
        (told({"com.docker.compose.project": "ai", "com.docker.compose.project.working_dir": "/srv/ai"}),
         "Compose project ai: take it out of the file in /srv/ai"),
    ],
)  # fmt: skip
def test_what_will_be_different(container: dict[str, t.Any], note: str) -> None:
    (line,) = _adopt_container.notes(container)
    assert note in line


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ({"Name": "no"}, ""),
        ({"Name": ""}, ""),
        ({"Name": "always", "MaximumRetryCount": 0}, "always"),
        ({"Name": "on-failure", "MaximumRetryCount": 5}, "on-failure:5"),
    ],
)
def test_restart_policy(policy: dict[str, t.Any], said: str) -> None:
    assert _adopt_container.restart_policy(told(RestartPolicy=policy)) == said


def client(command: str, *above: str, group: str = SESSION) -> dict[int, Process]:
    """Processes, each the child of the one before; the last is the engine's client."""
    known = {1: Process(1, 0, 1, "systemd", ("/sbin/init",), ("/init.scope",))}
    for number, line in enumerate([*above, command], start=2):
        words = line.split(" ")
        known[number] = Process(number, number - 1, number, words[0].rpartition("/")[2], tuple(words), (group,))
    return known


UNIT = "/system.slice/llm.service"


@pytest.mark.parametrize(
    ("known", "problem", "scripts"),
    [
        (client("/usr/bin/docker run --rm --name llm x", group=UNIT), "systemd unit llm.service", ()),
        (client("/usr/bin/docker start -a llm", group=UNIT), "systemd unit llm.service", ()),
        (client("docker start -a 4d0bb485a6bb", group=UNIT), "systemd unit llm.service", ()),
        (client("docker run --rm vllm/vllm-openai:v0.32.0 --model m", group=UNIT), "systemd unit llm.service", ()),
        (client("docker run --name=llm x", "python3 /usr/bin/supervisord"), "under supervisord", ()),
        (client("docker run --name=llm x", "-bash", "bash run.sh"), "", (3,)),
        (client("docker run --name=llm x", "-bash", "sudo docker run --name=llm x"), "", (3,)),
        (client("docker run --name=llm x", "-bash"), "", ()),
        # Somebody else's.
        (client("docker run --rm --name other vllm/vllm-openai:v0.32.0", group=UNIT), "", ()),
        (client("docker start -a 5d0bb485a6bb", group=UNIT), "", ()),
        (client("docker logs -f llm", group=UNIT), "", ()),
        (client("docker compose up", group=UNIT), "", ()),
        (client("vim docker run --name llm", group=UNIT), "", ()),
    ],
)
def test_who_runs_it(known: dict[int, Process], problem: str, scripts: tuple[int, ...]) -> None:
    problems, found = _adopt_container.run_by(told(), known)
    assert len(problems) == bool(problem)
    assert all(problem in line for line in problems)
    assert found == scripts


def test_commands_without_a_name_that_cannot_be_told_apart() -> None:
    """Two loops, one image: the other one's script must not be ended."""
    one = client("docker run vllm/vllm-openai:v0.32.0 --model m", "-bash", "bash a.sh")
    other = {
        pid + 100: Process(pid + 100, item.parent + 100 if pid > 2 else 1, pid + 100, item.name, item.argv, item.groups)
        for pid, item in one.items()
        if pid > 1
    }
    problems, scripts = _adopt_container.run_by(told(), {**one, **other})
    assert len(problems) == 1
    assert "cannot be told apart" in problems[0]
    assert scripts == ()


@pytest.mark.parametrize(
    ("config", "is_it"),
    [
        ({"Cmd": ["--model", "m"], "AttachStdout": True}, True),
        ({"Cmd": None}, True),
        ({"Cmd": ["--model", "other"], "AttachStdout": True}, False),
        ({"Cmd": ["--model", "m"], "AttachStdout": False}, False),
        ({"CreateCommand": ["podman", "run", "vllm/vllm-openai:v0.32.0", "--model", "m"]}, True),
        ({"CreateCommand": ["podman", "run", "-d", "vllm/vllm-openai:v0.32.0", "--model", "m"]}, False),
    ],
)
def test_a_run_without_a_name(config: dict[str, t.Any], is_it: bool) -> None:
    container = told()
    container["Config"].update(config)
    known = client("/usr/bin/podman run vllm/vllm-openai:v0.32.0 --model m")
    assert bool(_adopt_container.clients(container, known)) == is_it


def test_a_compose_project_that_a_unit_runs() -> None:
    known = client("docker compose up", group=UNIT)
    problems, _scripts = _adopt_container.run_by(told({"com.docker.compose.project": "ai"}), known)
    assert "systemd unit llm.service" in problems[0]


@pytest.mark.parametrize(
    ("host", "environ", "visible"),
    [
        ({"DeviceRequests": [{"Driver": "", "Count": -1, "DeviceIDs": None}]}, {}, None),
        ({"DeviceRequests": [{"Driver": "", "Count": 2, "DeviceIDs": None}]}, {}, "0,1"),
        ({"DeviceRequests": [{"Driver": "", "Count": 0, "DeviceIDs": ["1", "3"]}]}, {}, "1,3"),
        ({"DeviceRequests": [{"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=2"]}]}, {}, "2"),
        ({"DeviceRequests": [{"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=all"]}]}, {}, None),
        # In the container they count from 0.
        ({"DeviceRequests": [{"DeviceIDs": ["2", "5"]}]}, {"CUDA_VISIBLE_DEVICES": "1"}, "5"),
        ({"DeviceRequests": [{"DeviceIDs": ["2"]}]}, {"CUDA_VISIBLE_DEVICES": "GPU-1"}, "GPU-1"),
        ({"Runtime": "nvidia"}, {"NVIDIA_VISIBLE_DEVICES": "1"}, "1"),
        ({"Runtime": "nvidia"}, {"NVIDIA_VISIBLE_DEVICES": "all"}, None),
        # The image says it, and nobody hears.
        ({"Runtime": "runc"}, {"NVIDIA_VISIBLE_DEVICES": "1"}, None),
        ({}, {"CUDA_VISIBLE_DEVICES": "1"}, "1"),
    ],
)
def test_gpus(host: dict[str, t.Any], environ: dict[str, str], visible: str | None) -> None:
    assert _adopt_container.environ_outside(told(**host), environ).get("CUDA_VISIBLE_DEVICES") == visible


def test_gpus_of_podman() -> None:
    container = told()
    container["Config"]["CreateCommand"] = ["podman", "run", "--device", "nvidia.com/gpu=1", "x"]
    assert _adopt_container.gpus(container, {}) == ["1"]


# A cache that is bound into a container, on a host of its own whose root has the number 0:90.
HOST = """\
918 879 0:90 / / rw - overlay overlay rw
919 918 254:1 / /data rw - ext4 /dev/vdb rw
920 918 254:2 / /disk rw - ext4 /dev/vdc rw
538 944 0:87 / /var/lib/docker/overlay2/f04/merged rw shared:215 - overlay overlay rw
"""
INSIDE = """\
611 539 0:87 / / rw - overlay overlay rw
631 611 0:90 /root/.cache/hub /cache rw - overlay overlay rw
635 611 254:2 / /whole rw - ext4 /dev/vdc rw
632 611 254:1 /models /models rw - ext4 /dev/vdb rw
633 611 0:87 /x /image rw - overlay overlay rw
634 611 0:99 / /ram rw - tmpfs tmpfs rw
"""


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/cache/models--a--b", "/root/.cache/hub/models--a--b"),
        ("/models/m", "/data/models/m"),
        ("/whole/m", "/disk/m"),
        # Of the image: gone with its container, though the host sees the layers now.
        ("/opt/model", None),
        ("/image/model", None),
        ("/ram/model", None),
    ],
)
def test_where_a_path_of_a_container_lies(path: str, place: str | None) -> None:
    assert _adopt_look.host_path(path, INSIDE, HOST) == place
