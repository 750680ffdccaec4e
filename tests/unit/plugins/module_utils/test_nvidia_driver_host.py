# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What programs and files of a host say of its driver."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.steadfast.vllm.plugins.module_utils import _apt_sources, _apt_view
from ansible_collections.steadfast.vllm.plugins.module_utils import _nvidia_driver_host as host
from ansible_collections.steadfast.vllm.plugins.module_utils import _nvidia_driver_obstacles as obstacles
from ansible_collections.steadfast.vllm.plugins.module_utils._command import Done
from ansible_collections.steadfast.vllm.tests.real_runner import real_runner

from tests.nvidia_hosts import seen, wished


class Says:
    """A runner whose programs give the same answer each time; it keeps the commands."""

    def __init__(self, **answers: str | Done) -> None:
        self.answers = answers
        self.commands: list[list[str]] = []

    def __call__(self, command: list[str], **_options: Any) -> Done:
        self.commands.append(list(command))
        name = Path(command[0]).name.replace("-", "_")
        if name not in self.answers:
            raise FileNotFoundError(2, "No such file or directory", command[0])
        answer = self.answers[name]
        return answer if isinstance(answer, Done) else Done(0, answer)


def test_what_is_seen_here_is_what_the_other_tests_make_up() -> None:
    found = host.see(wished(), real_runner())
    assert set(found) == set(seen()) - {"module"}
    alike = [name for name, value in seen().items() if name in found and value is not None and found[name] is not None]
    assert {name: type(found[name]) for name in alike} == {name: type(seen()[name]) for name in alike}
    assert found["euid"] == os.geteuid() and found["os_release"]["ID"]


def test_dpkg_s_rows_become_packages() -> None:
    found = host.packages("ii \tgcc\t4:12.2.0-3\tcpp\nhi \tnvidia-smi\t535-1\t\nrc \tcron\t\t\niF \tdkms\t3\tgcc\n")
    assert found["gcc"] == host.Package("ii", "4:12.2.0-3", "cpp")
    assert [found[name].status for name in ("nvidia-smi", "cron", "dkms")] == ["hi", "rc", "iF"]


@pytest.mark.parametrize(
    ("depends", "release"),
    [
        ("linux-headers-6.1.0-41-cloud-amd64 (= 6.1.158-1)", "6.1.0-41-cloud-amd64"),
        ("linux-headers-6.12.57+deb13-amd64 (= 6.12.57-1), x", "6.12.57+deb13-amd64"),
        ("libc6", ""),
    ],
)
def test_a_metapackage_names_its_kernel(depends: str, release: str) -> None:
    assert host.release_in(depends) == release


def test_the_library_s_version_is_that_of_the_file(tmp_path: Path) -> None:
    real = tmp_path / "libcuda.so.535.309.01"
    real.touch()
    link = tmp_path / "libcuda.so.1"
    link.symlink_to(real)
    run = Says(ldconfig=f"\tlibcudart.so.12 (libc6) => /x\n\tlibcuda.so.1 (libc6,x86-64) => {link}\n")
    assert host.library(run) == "535.309.01"
    assert host.library(Says(ldconfig="\tlibc.so.6 (libc6) => /x\n")) == ""
    assert host.library(Says()) == ""


def test_dkms_modules_come_before_others_and_helpers_do_not_count(tmp_path: Path) -> None:
    for name in ("kernel/nvidia.ko.xz", "updates/dkms/nvidia-current.ko", "updates/dkms/nvidia-current-uvm.ko"):
        file = tmp_path / "6.1.0" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    run = Says(modinfo="535.309.01\n")
    assert host.module_version("6.1.0", run, str(tmp_path)) == "535.309.01"
    assert run.commands == [["modinfo", "-F", "version", f"{tmp_path}/6.1.0/updates/dkms/nvidia-current.ko"]]
    assert host.module_version("6.2.0", run, str(tmp_path)) == ""
    assert host.module_version("", run, str(tmp_path)) == ""


def test_the_gpu_s_users_are_told(tmp_path: Path) -> None:
    words = {13: ["python3", "-I", "/opt/vllm-keeper/vllm_keeper/signals/nvml.py"]}
    for pid, target in ((12, "/dev/nvidia0"), (7, "/dev/null"), (13, "/dev/nvidiactl")):
        folder = tmp_path / str(pid)
        (folder / "fd").mkdir(parents=True)
        (folder / "fd" / "3").symlink_to(target)
        (folder / "comm").write_text("VLLM::Worker\n" if pid != 13 else "python3\n")
        (folder / "cmdline").write_text("\0".join([*words.get(pid, ["VLLM::Worker"]), ""]))
    assert host.users(str(tmp_path)) == [
        {"pid": 12, "command": "VLLM::Worker"},
        # Otherwise no driver of a host with the keeper could ever be changed.
        {"pid": 13, "command": "vllm-keeper"},
    ]
    assert not obstacles.in_use({"users": [{"pid": 13, "command": "vllm-keeper"}]})


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (Done(0, "GPU 0: NVIDIA H100"), ""),
        (Done(18, "Failed to initialize NVML: Driver/library version mismatch"), "version mismatch"),
        (Done(9), "exit status 9"),
    ],
)
def test_nvidia_smi_answers_or_says_why_not(answer: Done, told: str) -> None:
    said = host.smi(Says(nvidia_smi=answer))
    assert told in said and bool(told) == bool(said)
    assert host.smi(Says())


def test_a_missing_or_broken_record_is_none(tmp_path: Path) -> None:
    file = tmp_path / "packages.json"
    assert host.record(str(file)) == []
    file.write_text("{")
    assert host.record(str(file)) == []
    file.write_text(json.dumps({"added": ["dkms"]}))
    assert host.record(str(file)) == ["dkms"]


def test_an_archive_says_whose_it_is(tmp_path: Path) -> None:
    (tmp_path / "m.example_debian_dists_bookworm_InRelease").write_text("Hash: x\nOrigin: Debian\nLabel: Debian\n")
    sources = [_apt_sources.Source(("http://m.example/debian/", "http://other.example/x"), ("bookworm",), ("main",))]
    assert host.origins(sources, str(tmp_path)) == {"http://m.example/debian": "Debian"}


def test_kernels_are_told_flavours_first_and_the_newest_next() -> None:
    names = ["6.1.0-9-amd64", "6.1.0-41-amd64", "amd64", "6.1.0-41-common", "cloud-amd64", "6.1.0-41-rt-amd64"]
    assert host.kernels(f"linux-headers-{name}" for name in names) == [
        "amd64", "cloud-amd64", "6.1.0-41-amd64", "6.1.0-9-amd64",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "stream"),
    [
        ("[nvidia-driver]\nname=nvidia-driver\nstream=580-open\nprofiles=\nstate=enabled\n", "nvidia-driver:580-open"),
        ("[nvidia-driver]\nstream=580-open\nstate=\n", ""),
        ("", ""),
    ],
)
def test_dnf_s_stream_counts_where_it_is_enabled(text: str, stream: str) -> None:
    assert host.stream(text) == stream


REHEARSED = """The following packages will be REMOVED:
  nvidia-kernel-dkms* old-one*
The following NEW packages will be installed:
  nvidia-open-kernel-dkms
Need to get 1,117 kB of archives.
After this operation, 263 MB of additional disk space will be used.
'http://a.example/pool/nvidia-open-kernel-dkms_535.261.03-1_amd64.deb' nvidia-open-kernel-dkms_535.deb 1117000 MD5Sum:0d
"""


def test_apt_s_rehearsal_is_understood() -> None:
    view = _apt_view.View(Says(apt_get=Done(0, REHEARSED)), {})
    trial = view.trial("install", ["x"])
    assert trial == {
        "error": "",
        "download": 1_117_000,
        "disk": 263_000_000,
        "removes": ["nvidia-kernel-dkms", "old-one"],
    }


def test_what_apt_cannot_do_is_told_with_the_reason() -> None:
    said = Done(100, "The following packages have unmet dependencies:\n nvidia-smi : Depends: x (= 1)\n", "E: broken\n")
    trial = _apt_view.View(Says(apt_get=said), {}).trial("install", ["nvidia-smi"])
    assert trial["error"] == "E: broken; nvidia-smi : Depends: x (= 1)"


def test_the_newest_version_comes_first_and_sources_do_not_count() -> None:
    said = """ nvidia-smi | 535.309.01-0+deb12u1 | http://s bookworm-security/non-free amd64 Packages
 nvidia-smi | 535.261.03-1 | http://d bookworm/non-free amd64 Packages
 nvidia-smi | 535.261.03-1 | http://e bookworm/non-free amd64 Packages
 nvidia-graphics-drivers | 535.261.03-1 | http://d bookworm/non-free Sources
"""
    found = _apt_view.View(Says(apt_cache=said), {}).versions(["nvidia-smi"])
    assert found["nvidia-smi"] == ["535.309.01-0+deb12u1", "535.261.03-1"]
    assert not found.get("nvidia-graphics-drivers")


@pytest.mark.skipif(os.geteuid() != 0, reason="apt's own user is given a folder")
def test_our_files_stand_in_the_place_of_the_host_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sources.list.d/debian.sources", "sources.list.d/ours.sources", "preferences.d/theirs"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("before\n")
    monkeypatch.setattr(_apt_view, "ETC", str(tmp_path))
    key = f"{tmp_path}/keyrings/ours.asc"
    ours = {
        f"{tmp_path}/sources.list.d/ours.sources": f"Signed-By: {key}\n",
        f"{tmp_path}/preferences.d/ours": "",
        key: "KEY\n",
    }
    with _apt_view.View(Says(), ours) as view:
        lists = view.folder / "sources.list.d"
        assert sorted(file.name for file in lists.iterdir()) == ["debian.sources", "ours.sources"]
        place = (lists / "ours.sources").read_text().strip().partition(": ")[2]
        assert Path(place).read_text() == "KEY\n" and Path(place).is_relative_to(view.folder)
        assert [file.name for file in (view.folder / "preferences.d").iterdir()] == ["theirs"]
        folder = view.folder
    assert not folder.exists()
