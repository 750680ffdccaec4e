# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role leaves on a host with a real Docker, and what the container may."""

from __future__ import annotations

import json
import shlex
from typing import Any

from ansible_collections.steadfast.vllm.plugins.module_utils import _compose

from lab import client, faults

NASTY = {
    "DOLLARS": "$HOME ${HOME} $$ ${X:-y} $",
    "QUOTES": "a'b\"c`d",
    "ENDS_IN_A_BACKSLASH": "x\\",
    "BACKSLASHES": "\\n\\$x\\\\",
    "HASH": "a # b",
    "SPACES": "  two  ",
    "TAB": "a\tb",
    "NOTHING": "",
    "YAML": "- {a: [b]}: &c *d !e |",
    "LETTERS": "é☃",
}


def test_a_picture_is_answered(subject: faults.Subject) -> None:
    assert subject.sees_colours()


def test_the_keeper_says_healthy_and_by_which_manager(subject: faults.Subject) -> None:
    status = subject.status()
    assert (status["verdict"], status["manager"], status["enabled"]) == ("healthy", "compose", True)


def test_project_container_and_instance_have_one_name(subject: faults.Subject, container: dict[str, Any]) -> None:
    assert container["Name"] == f"/{subject.name}"
    assert container["Config"]["Labels"]["com.docker.compose.project"] == subject.name
    assert "Uvicorn" in subject.on(f"docker logs {subject.name} 2>&1") or "Application startup" in subject.on(
        f"docker logs {subject.name} 2>&1"
    )


def test_it_runs_as_the_guide_says(container: dict[str, Any]) -> None:
    host = container["HostConfig"]
    assert host["RestartPolicy"]["Name"] == "unless-stopped"
    assert host["Init"] is True
    assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-file": "10", "max-size": str(50 << 20)}}
    check = container["Config"]["Healthcheck"]
    seconds = 10**9
    assert (check["Interval"], check["Timeout"], check["Retries"], check["StartPeriod"]) == (
        30 * seconds,
        10 * seconds,
        3,
        180 * seconds,
    )


def test_it_may_little(subject: faults.Subject, container: dict[str, Any]) -> None:
    host = container["HostConfig"]
    assert host["ReadonlyRootfs"] is True
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    inside = f"docker exec {subject.name} "
    assert subject.on(inside + "id -u").strip() == subject.on("id -u vllm").strip() != "0"
    for path in ("/x", "/opt/vllm/x", f"/etc/vllm/{subject.name}.yaml", "/srv/lab/models/tiny-qwen3-vl/x"):
        tried = subject.on(f"{inside}sh -c ': >> {path}' 2>&1 || true")
        assert "Read-only" in tried or "Permission denied" in tried, (path, tried)
    capabilities = subject.on(inside + "grep CapEff /proc/1/status")
    assert int(capabilities.split()[1], 16) == 0


def test_the_image_is_ours_and_holds_nothing_of_its_making(subject: faults.Subject, container: dict[str, Any]) -> None:
    image = container["Config"]["Image"]
    assert image.startswith("localhost/steadfast-vllm:0.32.0")
    history = subject.on(f"docker history --no-trunc --format '{{{{.CreatedBy}}}}' {image}")
    assert "require-hashes" in history
    inside = f"docker run --rm --network none --entrypoint sh {image} -c "
    left = subject.on(inside + "'ls /run/tools /run/packages /run/vllm.txt /var/cache/uv/* 2>/dev/null; id -u'")
    assert left.strip().splitlines()[-1] == "10001"
    assert "uv" not in left.split()
    assert ".whl" not in left


def test_files_have_the_right_owner_and_mode(subject: faults.Subject) -> None:
    folder = f"/etc/vllm/compose/{subject.name}"
    listed = subject.on(f"stat -c '%n %U %a' {folder}/*").split("\n")
    assert sorted(line for line in listed if line) == [
        f"{folder}/compose.override.yaml root 600",
        f"{folder}/compose.yaml root 644",
    ]


def test_the_secret_of_the_lab_is_in_the_container_and_not_in_the_file_that_others_may_read(
    subject: faults.Subject,
) -> None:
    secret = str(client.instance()["env"]["LAB_SECRET"])
    assert secret in subject.on(f"docker exec {subject.name} env")
    assert secret not in subject.on(f"cat /etc/vllm/compose/{subject.name}/compose.yaml")


def test_secrets_arrive_byte_for_byte(subject: faults.Subject, container: dict[str, Any]) -> None:
    """Through this host's Compose: values that a file of variables would bend."""
    image = container["Config"]["Image"]
    plain = {"services": {"nasty": {"image": image, "pull_policy": "never", "entrypoint": ["python3", "-c"]}}}
    secret = _compose.secrets({"name": "nasty", "secrets": NASTY})
    program = "import json, os; print(json.dumps(dict(os.environ)))"
    command = f"docker compose run --rm nasty {shlex.quote(program)} 2>/dev/null"
    written = " && ".join(
        f"printf %s {shlex.quote(json.dumps(text))} > {name}"
        for name, text in (("compose.yaml", plain), ("compose.override.yaml", secret))
    )
    try:
        said = json.loads(subject.on(f"mkdir -p /tmp/nasty && cd /tmp/nasty && {written} && {command}"))
    finally:
        subject.on("cd /tmp/nasty && docker compose down >/dev/null 2>&1; rm -rf /tmp/nasty", check=False)
    assert {name: said.get(name) for name in NASTY} == NASTY


def test_docker_knows_the_container_as_healthy(subject: faults.Subject) -> None:
    asked = f"docker inspect -f '{{{{.State.Health.Status}}}}' {subject.name}"
    client.wait_until(lambda: subject.on(asked).strip() == "healthy", 60, "Docker's own check")
