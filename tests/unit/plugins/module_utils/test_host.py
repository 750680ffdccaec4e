# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is seen of a host, on folders made for it and on the machine that runs the tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.steadfast.vllm.plugins.module_utils import _host, _manifest
from ansible_collections.steadfast.vllm.plugins.module_utils._manifest_plan import Entry
from vllm_keeper import clock

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="takes on another user")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model in two shards, with all folders above it open to others."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"architectures": ["X"]}')
    for number in (1, 2):
        (folder / f"model-{number}.safetensors").write_bytes(b"x" * 10)
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for place in (folder, *folder.parents):
        if place.stat().st_mode & 0o777 == 0o700 and str(place) != "/root":
            place.chmod(0o755)
    return folder


def test_a_good_model(model: Path) -> None:
    found = _host.model(str(model), "nobody")
    assert found["kind"] == "folder"
    assert found["config"] == "ok"
    assert found["weights"] == ["model-1.safetensors", "model-2.safetensors"]
    assert found["bytes"] == 20
    assert found["absent"] == found["unreadable"] == []


@as_root
@pytest.mark.parametrize("user", ["nobody", "a-user-not-made-yet"])
def test_what_the_service_user_cannot_read(model: Path, user: str) -> None:
    (model / "model-2.safetensors").chmod(0o600)
    (model / ".private").touch(mode=0o600)
    assert _host.model(str(model), user)["unreadable"] == [str(model / "model-2.safetensors")]
    model.chmod(0o700)
    assert str(model) in _host.model(str(model), user)["unreadable"]
    assert _host.model(str(model), "root")["unreadable"] == []


def test_a_model_cut_off_while_copied(model: Path) -> None:
    (model / "model-2.safetensors").unlink()
    assert _host.model(str(model), "root")["absent"] == ["model-2.safetensors"]
    (model / "model.safetensors.index.json").write_text("{")
    assert _host.model(str(model), "root")["absent"] == ["model.safetensors.index.json (cannot be read)"]


def test_models_that_are_none(model: Path) -> None:
    missing = _host.model(str(model / "not" / "there"), "root")
    assert (missing["kind"], missing["nearest"]) == ("missing", str(model))
    assert _host.model(str(model / "config.json"), "root")["kind"] == "file"
    (model / "config.json").write_text("[")
    assert _host.model(str(model), "root")["config"].startswith("Expecting value")
    (model / "config.json").write_text("[]")
    assert _host.model(str(model), "root")["config"] == "not a JSON object"
    (model / "config.json").unlink()
    assert _host.model(str(model), "root")["config"] == "missing"
    (model / "params.json").write_text("{}")
    assert _host.model(str(model), "root")["config"] == "ok"


def test_os_release(tmp_path: Path) -> None:
    (tmp_path / "os-release").write_text("ID=debian\nVERSION_ID=\"12\"\n# no=thing\nPRETTY_NAME='Debian 12'\n")
    found = _host.os_release([str(tmp_path / "missing"), str(tmp_path / "os-release")])
    assert found == {"ID": "debian", "VERSION_ID": "12", "PRETTY_NAME": "Debian 12"}


def test_the_space_of_a_path_that_is_not_there_yet(tmp_path: Path) -> None:
    here, there = _host.filesystem(str(tmp_path)), _host.filesystem(str(tmp_path / "a" / "b"))
    assert there["nearest"] == str(tmp_path)
    assert here["device"] == there["device"]
    assert 0 < there["free"] <= there["total"]


def run(argv: list[str]) -> tuple[int, str, str]:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_python_version(tmp_path: Path) -> None:
    assert _host.python_version(sys.executable, run) == (sys.version_info[:3], "")
    assert _host.python_version(None, run) == (None, "")
    assert _host.python_version(str(tmp_path / "python"), run) == (None, "not there")
    assert _host.python_version("/bin/false", run) == (None, "exit status 1, no version printed")


def test_unit_files(tmp_path: Path) -> None:
    lib = tmp_path / "lib"
    lib.mkdir()
    (tmp_path / "alias").symlink_to(lib)
    (lib / "a.service").touch()
    (lib / "b.service").symlink_to("/dev/null")
    folders = [str(lib), str(tmp_path / "alias"), str(tmp_path / "none")]
    assert _host.unit_files("a.service", folders) == [str(lib / "a.service")]
    assert _host.unit_files("b.service", folders) == [str(lib / "b.service")]
    assert _host.unit_files("c.service", folders) == []


def test_what_manifests_answer_for(tmp_path: Path) -> None:
    entry = {"path": "/etc/systemd/system/a.service", "state": "file", "owes": ["systemd"], "before_remove": []}
    document = {"version": _manifest.VERSION, "owed": [], "files": [{**entry, "secret": False, "made": False}]}
    (tmp_path / "service.json").write_text(json.dumps(document))
    (tmp_path / "torn.json").write_text("{")
    assert [found.path for found in _host.manifest_entries(str(tmp_path))] == [entry["path"]]
    assert _host.manifest_entries(str(tmp_path / "none")) == []


@pytest.mark.parametrize(
    ("before", "managers"),
    [
        ([], []),
        ([()], []),
        ([("/usr/local/bin/vllm-keeper", "retire", "--manager", "tmux", "a")], ["tmux"]),
        ([("systemctl", "disable", "--now", "a.service")], ["systemd"]),
        (
            [("k", "retire", "--manager", "compose", "a"), ("k", "retire", "--manager", "systemd", "b")],
            ["compose", "systemd"],
        ),
        ([("k", "forget", "a"), ("k", "retire", "--manager")], []),
    ],
)
def test_which_managers_run_something(before: list[tuple[str, ...]], managers: list[str]) -> None:
    entries = [Entry(f"/etc/{number}", before_remove=words) for number, words in enumerate(before)]
    assert _host.managers(entries) == managers


def test_ceilings_of_this_machine() -> None:
    hard = subprocess.run(["sh", "-c", "ulimit -Hn"], capture_output=True, text=True, check=True).stdout.strip()
    files = _host.files_max()
    assert files is not None
    assert files > 0
    assert hard == "unlimited" or int(hard) > 0
    assert (_host.tasks_max() or 0) > 0


def test_a_folder_of_manifests_that_may_not_be_read_answers_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(directory: str) -> list[str]:
        raise PermissionError(13, "Permission denied", directory)

    monkeypatch.setattr(_host._manifest, "names", refuse)
    assert _host.manifest_entries("/var/lib/steadfast") == []


def test_a_listener_below_the_keeper_s_runner_is_known(tmp_path: Path) -> None:
    """`vllm-keeper run` 10, its server 20 and the server's worker 30; 40 listens for somebody else."""
    for pid, parent, born in ((10, 1, 500), (20, 10, 501), (30, 20, 502), (40, 1, 503)):
        (tmp_path / "proc" / str(pid)).mkdir(parents=True)
        fields = ["S", str(parent), *["0"] * 17, str(born), "0"]
        (tmp_path / "proc" / str(pid) / "stat").write_text(f"{pid} (a b) c) {' '.join(fields)}")
    (tmp_path / "qwen3vl.json").write_text(json.dumps({"runner": 10, "born": 500}))
    (tmp_path / "old.json").write_text(json.dumps({"runner": 40, "born": 1}))  # its pid is somebody else's now
    (tmp_path / "broken.json").write_text("{")
    listeners = [{"pid": pid} for pid in (20, 30, 40, None, 99)]
    found = _host.runs(listeners, (), str(tmp_path), str(tmp_path), str(tmp_path / "proc"))
    assert [one["run"] for one in found] == ["qwen3vl", "qwen3vl", None, None, None]


def history(folder: Path, name: str, boot: str, *processes: list[int] | None) -> None:
    starts = [{"at": {"wall": 0.0, "boot": 1.0, "boot_id": boot}, "processes": one} for one in processes]
    (folder / f"{name}.json").write_text(json.dumps({"version": 1, "starts": starts}))


def test_what_a_killed_runner_left_is_its_instance_s(tmp_path: Path) -> None:
    """The rule of the keeper's gate (vllm_keeper/processes.py, leftovers): group and session, and not born before."""
    proc = tmp_path / "proc"
    for pid, group, session, born in ((1, 1, 1, 7), (20, 20, 10, 501), (21, 20, 10, 900), (22, 20, 10, 400),
                                      (30, 30, 10, 600), (40, 40, 40, 700)):  # fmt: skip
        (proc / str(pid)).mkdir(parents=True)
        fields = ["S", "0" if pid == 1 else "1", str(group), str(session), *["0"] * 15, str(born), "0"]
        (proc / str(pid) / "stat").write_text(f"{pid} (VLLM::EngineCor) {' '.join(fields)}")
    (proc / "sys" / "kernel" / "random").mkdir(parents=True)
    (proc / "sys" / "kernel" / "random" / "boot_id").write_text("here\n")
    history(tmp_path, "qwen3vl", "here:7", None, [20, 10, 501])
    history(tmp_path, "old", "before:7", [30, 10, 600])
    history(tmp_path, "gone", "here:7", [40, 40, 700])
    (tmp_path / "torn.json").write_text("{")
    listeners = [{"pid": pid} for pid in (20, 21, 22, 30, 40, None, 99)]
    planned = ["qwen3vl", "old", "torn", "new"]
    found = _host.runs(listeners, planned, str(tmp_path / "none"), str(tmp_path), str(proc))
    # 22 is older than the run, 30's run was before the boot, and nobody starts "gone", whose 40 is.
    assert [one["run"] for one in found] == ["qwen3vl", "qwen3vl", None, None, None, None, None]


def test_the_boot_is_named_as_the_keeper_names_it() -> None:
    """What the keeper itself writes down on this machine is taken for a run of this boot."""
    moment = clock.Clock().now()
    assert moment.boot_id == f"{_host.text_of('/proc/sys/kernel/random/boot_id')}:{_host.stat_field(1, 19, '/proc')}"


def test_the_largest_picture_is_what_the_preprocessors_say(tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text('{"size": {"longest_edge": 16777216, "shortest_edge": 65536}}')
    (tmp_path / "video_preprocessor_config.json").write_text('{"size": {"height": 10}}')
    assert _host.pictures(tmp_path) == {"image": 16777216}
    (tmp_path / "preprocessor_config.json").write_text('{"size": {"longest_edge": true}}')
    assert _host.pictures(tmp_path) == {}
    (tmp_path / "preprocessor_config.json").write_text('{"size": 448')
    assert _host.pictures(tmp_path) == {}
