# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The checks of the preflight on tables of what could be seen."""

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest
import yaml
from ansible_collections.steadfast.vllm.plugins.module_utils import (
    _findings,
    _instances,
    _preflight,
    _releases,
    _start_checks,
)
from ansible_collections.steadfast.vllm.plugins.plugin_utils import _lock

GIB = 2**30


def instance(**keys: object) -> dict[str, t.Any]:
    plain = {"name": "a", "port": 8000, "host": "0.0.0.0", "unit": "a.service", "model_source": "hub"}
    return {**plain, "model_path": "/m", "model": "/m", "files": None, "gpus": None, "arguments": {}, **keys}


def wanted(**keys: object) -> dict[str, t.Any]:
    plain: dict[str, t.Any] = {"instances": [instance()], "service_manager": "systemd", "supported": {}, "disk": []}
    plain |= {"cuda": "", "driver_version": ""}
    return {**plain, "python": None, "shm_bytes": _preflight.SHM_BYTES, **keys}


MODEL = {"nearest": "/m", "kind": "folder", "unreadable": [], "config": "ok", "content": None,
         "weights": ["x.safetensors"], "absent": [], "bytes": 17 * GIB}  # fmt: skip
DISK = {"nearest": "/", "device": 1, "free": 10 * GIB, "total": 20 * GIB, "files": 1000000, "files_free": 900000,
        "read_only": False}  # fmt: skip


def seen(**keys: object) -> dict[str, t.Any]:
    """A host with which all is well."""
    plain = {
        "euid": 0, "user": "root", "os_release": {"ID": "debian", "VERSION_ID": "12", "PRETTY_NAME": "Debian 12"},
        "machine": "x86_64", "init": "systemd", "systemd_runs": True, "listeners": [], "our_files": [], "our_units": [],
        "unit_files": {"a.service": []}, "service_user": "vllm", "models": {"/m": MODEL}, "disks": {}, "existing": [],
        "python": None, "python_error": "", "shm_total": GIB, "files_max": 524288, "tasks_max": 32768,
        "container": False, "time_daemons": ["chronyd"], "gpus": [], "driver": None, "smi": None, "secure_boot": None,
        "instance_type": "", "iommu": False, "start": None, "memory_total": 32 * GIB,
    }  # fmt: skip
    return {**plain, **keys}


def wrong(want: dict[str, t.Any], saw: dict[str, t.Any]) -> list[_findings.Finding]:
    return [finding for finding in _preflight.judge("host", want, saw) if not finding["ok"]]


def test_a_good_host_has_findings_and_all_are_well() -> None:
    findings = _preflight.judge(
        "host",
        wanted(disk=[{"path": "/opt", "need_bytes": 1}], python="/usr/bin/python3"),
        seen(disks={"/opt": DISK}, python=(3, 11, 2)),
    )
    assert {finding["check"] for finding in findings} >= {
        "root", "distribution", "machine", "service_manager", "unit[a]", "port[a]", "disk[/opt]", "python", "shm",
        "tasks", "time",
    }  # fmt: skip
    assert all(finding["ok"] and finding["severity"] == "none" and finding["evidence"] for finding in findings)
    assert _findings.told(findings, "error") == ""


def listener(**keys: object) -> dict[str, t.Any]:
    plain = {"address": "0.0.0.0", "port": 8000, "user": "root", "pid": 42, "command": "nginx", "unit": "nginx.service"}
    return {**plain, "run": None, **keys}


BAD = [
    ({}, {"euid": 1000, "user": "joe"}, "root", "joe (uid 1000)", "become: true"),
    ({}, {"os_release": {"ID": "debian", "VERSION_ID": "11"}}, "distribution", "VERSION_ID=11", "debian 12/13"),
    ({}, {"os_release": {}}, "distribution", "no /etc/os-release", "use one of"),
    ({}, {"os_release": {"ID": "rhel", "VERSION_ID": "90"}}, "distribution", "VERSION_ID=90", "use one of"),
    ({"supported": {"debian": ["13"]}}, {}, "distribution", "Debian 12", "use one of: debian 13"),
    ({}, {"machine": "riscv64"}, "machine", "riscv64", "x86_64"),
    ({}, {"systemd_runs": False, "init": "sh"}, "service_manager", "process 1 is sh", "service_manager"),
    ({}, {"listeners": [listener()]}, "port[a]", "nginx (pid 42, user root, unit nginx.service)", "another port"),
    ({}, {"listeners": [listener(pid=None, command=None, unit=None)]}, "port[a]", "cannot be seen", "another port"),
    (
        {"service_manager": "supervisor", "instances": [instance(), instance(name="b", port=8001, limits=["memory"])]},
        {"unit_files": {}},
        "vllm_instances[1].limits.memory",
        "instance b under service_manager supervisor",
        "use systemd or compose, or leave the limit out",
    ),
    ({}, {"listeners": [listener(address="::")]}, "port[a]", ":: port 8000", "another port"),
    # Below our own supervisord, but nothing of ours.
    (
        {},
        {"listeners": [listener(unit="supervisor.service")], "our_units": ["supervisor.service"]},
        "port[a]",
        "unit supervisor.service",
        "another port",
    ),
    ({}, {"listeners": [listener(address="127.0.0.1")]}, "port[a]", "127.0.0.1", "another port"),
    ({}, {"unit_files": {"a.service": ["/lib/systemd/system/a.service"]}}, "unit[a]", "/lib/systemd", "another name"),
    ({}, {"shm_total": 64 * 2**20}, "shm", "64.0 MiB", "--shm-size"),
    ({}, {"shm_total": None}, "shm", "missing", "--shm-size"),
    ({"python": "/p"}, {"python": (3, 10, 12)}, "python", "/p is 3.10.12", "3.11 to 3.13"),
    ({"python": "/p"}, {"python": (3, 14, 0)}, "python", "/p is 3.14.0", "3.11 to 3.13"),
    ({"python": "/p"}, {"python": None, "python_error": "not there"}, "python", "/p: not there", "vllm_python"),
    ({"instances": [instance(files=10**6)]}, {}, "limits[a]", "524288", "--ulimit nofile"),
    ({}, {"tasks_max": 2048}, "tasks", "2048", "--pids-limit"),
    ({}, {"time_daemons": []}, "time", "chronyd", "chrony"),
]


@pytest.mark.parametrize(("want", "saw", "check", "evidence", "fix"), BAD)
def test_each_problem_has_evidence_and_a_fix(
    want: dict[str, t.Any], saw: dict[str, t.Any], check: str, evidence: str, fix: str
) -> None:
    (finding,) = wrong(wanted(**want), seen(**saw))
    assert finding["check"] == check
    assert finding["severity"] == ("warning" if check in ("tasks", "time") else "error")
    assert evidence in finding["evidence"]
    assert fix in finding["fix"]
    assert finding["cause"]
    line = _findings.told([finding], finding["severity"])
    assert line.startswith(f"{check}: ")
    assert "\n" not in line


GOOD = [
    ({}, {"os_release": {"ID": "rocky", "VERSION_ID": "9.4"}}),
    ({}, {"os_release": {"ID": "amzn", "VERSION_ID": "2023"}}),
    ({"supported": {"arch": ["rolling"]}}, {"os_release": {"ID": "arch", "VERSION_ID": "rolling"}}),
    ({"service_manager": "compose"}, {"systemd_runs": False, "unit_files": {"a.service": ["/etc/x"]}, "tasks_max": 9}),
    # The instance's own unit, and one that we wrote for an instance that goes away.
    ({}, {"listeners": [listener(unit="a.service")]}),
    ({}, {"listeners": [listener(unit="old.service")], "our_units": ["old.service"]}),
    ({}, {"listeners": [listener(unit="supervisor.service", run="a")]}),
    ({"service_manager": "supervisor", "instances": [instance(limits=["files", "memlock", "oom_score_adjust"])]}, {}),
    ({"service_manager": "compose", "instances": [instance(limits=["memory", "cpu", "tasks", "io_weight"])]}, {}),
    ({}, {"listeners": [listener(port=8001)]}),
    ({"instances": [instance(host="10.0.0.1")]}, {"listeners": [listener(address="10.0.0.2")]}),
    ({}, {"unit_files": {"a.service": ["/etc/x/a.service"]}, "our_files": ["/etc/x/a.service"]}),
    ({"instances": [instance(files=65536)]}, {"files_max": None}),
    ({"instances": []}, {"listeners": [listener()]}),
    ({}, {"container": True, "time_daemons": []}),
]


@pytest.mark.parametrize(("want", "saw"), GOOD)
def test_what_is_no_problem(want: dict[str, t.Any], saw: dict[str, t.Any]) -> None:
    assert wrong(wanted(**want), seen(**saw)) == []


@pytest.mark.parametrize(
    ("model", "cause"),
    [
        ({"kind": "missing", "nearest": "/srv"}, "the model's folder is not there"),
        ({"kind": "file"}, "the model is a file, not a folder"),
        ({"unreadable": ["/m/config.json"]}, "user vllm cannot read the model"),
        ({"config": "missing"}, "the model's folder has no config.json"),
        ({"config": "Expecting value"}, "the model's folder has a config.json that cannot be read"),
        ({"weights": []}, "the model's folder has no weights"),
        ({"absent": ["model-2.safetensors"]}, "1 weight files that its index names are not there"),
    ],
)
def test_models_that_would_not_load(model: dict[str, t.Any], cause: str) -> None:
    want = wanted(instances=[instance(model_source="path")])
    (finding,) = wrong(want, seen(models={"/m": {**MODEL, **model}}))
    assert finding["check"] == "model[a]"
    assert finding["cause"] == cause
    assert "/m" in finding["evidence"]
    assert wrong(want, seen()) == []


def need(path: str, gib: float, **keys: object) -> dict[str, t.Any]:
    return {"path": path, "need_bytes": int(gib * GIB), "for": f"what is in {path}", "unless": None, **keys}


def test_disk_needs_of_one_filesystem_are_added_up() -> None:
    disks = {"/a": DISK, "/b": DISK, "/c": {**DISK, "device": 2}}
    want = wanted(disk=[need("/a", 6), need("/b", 6), need("/c", 6)])
    (finding,) = wrong(want, seen(disks=disks))
    assert finding["check"] == "disk[/a, /b]"
    assert finding["cause"] == (
        "12.0 GiB wanted (6.0 GiB for what is in /a, 6.0 GiB for what is in /b), 2.0 GiB more than is free"
    )
    assert finding["evidence"] == "10.0 GiB of 20.0 GiB free on /"


def test_disk_that_is_used_already_is_not_wanted_again() -> None:
    want = wanted(disk=[need("/a", 60, unless="/a/done")])
    assert wrong(want, seen(disks={"/a": DISK}, existing=["/a/done"])) == []
    assert len(wrong(want, seen(disks={"/a": DISK}))) == 1


@pytest.mark.parametrize(
    ("state", "cause"),
    [
        ({"read_only": True}, "the filesystem is read-only"),
        ({"files_free": 3}, "the filesystem has no room for more files"),
    ],
)
def test_disks_that_take_no_more(state: dict[str, t.Any], cause: str) -> None:
    (finding,) = wrong(wanted(disk=[need("/a", 1)]), seen(disks={"/a": {**DISK, **state}}))
    assert finding["cause"] == cause


def test_the_pythons_are_those_of_the_lock_that_the_role_ships() -> None:
    role = Path(__file__).parents[4] / "roles" / "vllm"
    name = yaml.safe_load((role / "defaults" / "main.yml").read_text(encoding="utf-8"))["vllm_lock_file"]
    lock = _lock.parse((role / "files" / "locks" / name.rsplit("/", 1)[1]).read_text(encoding="utf-8"))
    tried = [(3, minor) for minor in range(30)]
    allowed = [version for version in tried if _releases.python_allowed(lock.requires_python, [*version, 0])]
    assert (allowed[0], allowed[-1]) == _preflight.PYTHONS


def test_all_problems_are_told_at_once_a_line_each() -> None:
    findings = _preflight.judge("host", wanted(), seen(euid=1, shm_total=None, listeners=[listener()], time_daemons=[]))
    assert [line.split(": ")[0] for line in _findings.told(findings, "error").splitlines()] == [
        "root",
        "port[a]",
        "shm",
    ]
    assert _findings.told(findings, "warning").startswith("time: ")


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 bytes"), (1023, "1023 bytes"), (160 * 2**20, "160.0 MiB"), (5 * 2**40, "5.0 TiB")]
)
def test_human(size: int, text: str) -> None:
    assert _findings.human(size) == text


def test_the_plan_holds_nothing_secret() -> None:
    made = _instances.normalise(
        [{"name": "a", "model": "/m", "api_key": "S3CR3T", "env": {"A": "S3CR3T"}, "limits": {"files": 65536}}]
    )
    arguments = {"tensor-parallel-size": 1, "max-model-len": 1024, "gpu-memory-utilization": 0.95}
    assert _preflight.plan(made) == [
        instance(
            model_source="path",
            files=65536,
            limits=["files"],
            arguments=arguments,
            start_timeout=600,
            compiling={**_start_checks.USUAL, "flashinfer_sampler": False},
        )
    ]
