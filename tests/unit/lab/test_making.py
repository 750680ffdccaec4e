# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Wheels, image settings, and the model's place in the cache."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from pathlib import Path

import pytest
import tomllib
from labkit import image, machine, model, wheels
from labkit.work import LabError, Workshop, digest

HOOK = (wheels.SOURCES / f"{wheels.HOOK}.py").read_text()


def test_the_shim_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    name, files = wheels.shim_wheel(HOOK)
    first, second = tmp_path / "a.whl", tmp_path / "b.whl"
    wheels.write_wheel(first, files)
    wheels.write_wheel(second, files)
    assert first.read_bytes() == second.read_bytes()
    assert name == f"vllm-{wheels.VLLM}+cpu-py3-none-any.whl"


def test_the_shims_record_is_right(tmp_path: Path) -> None:
    _, files = wheels.shim_wheel(HOOK)
    wheels.write_wheel(tmp_path / "a.whl", files)
    with zipfile.ZipFile(tmp_path / "a.whl") as archive:
        record = next(name for name in archive.namelist() if name.endswith("/RECORD"))
        for row in archive.read(record).decode().splitlines():
            name, sha, size = row.split(",")
            if name == record:
                assert not sha
                continue
            data = archive.read(name)
            wanted = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            assert (sha, int(size)) == (f"sha256={wanted}", len(data))


def test_torchs_own_index_only_where_pip_finds_no_cpu_torch(tmp_path: Path) -> None:
    here = machine.Pip(find_links=(str(tmp_path),))
    assert wheels.wants_torch_backend(machine.Pip())
    assert wheels.wants_torch_backend(here)
    (tmp_path / "torch-2.13.0+cpu-cp312-cp312-manylinux_2_28_x86_64.whl").touch()
    assert wheels.wants_torch_backend(here)
    (tmp_path / "torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl").touch()
    assert not wheels.wants_torch_backend(here)


def test_a_lock_stays_until_what_it_depends_on_changes(tmp_path: Path) -> None:
    shop = Workshop(tmp_path)
    inputs: dict[str, object] = {"vllm": "1"}
    assert not wheels.locked(shop, inputs)
    wheels.lock_file(shop).parent.mkdir(parents=True, exist_ok=True)
    wheels.lock_file(shop).write_text(f"# {digest(inputs)}\nvllm==1\n")
    assert wheels.locked(shop, inputs)
    assert not wheels.locked(shop, {"vllm": "2"})


def test_uv_settings_in_a_host() -> None:
    pip = machine.Pip(
        "https://index.example/simple", ("https://more.example/simple",), ("/srv/a", "https://w.example/")
    )
    settings = tomllib.loads(image.uv_toml(pip, 1, torch_backend=True))
    assert settings["find-links"] == [image.WHEELHOUSE, image.find_links_mount(0), "https://w.example/"]
    assert settings["pip"] == {"torch-backend": "cpu"}
    assert [(row["url"], row.get("default", False)) for row in settings["index"]] == [
        ("https://more.example/simple", False),
        ("https://index.example/simple", True),
    ]
    plain = tomllib.loads(image.uv_toml(machine.Pip(), 0, torch_backend=False))
    assert not {"index", "pip", "index-strategy"} & set(plain)


def test_an_image_is_made_anew_for_what_is_in_it() -> None:
    one = image.Recipe("trixie", {"etc/pip.conf": "a"})
    assert one.tag == image.Recipe("trixie", {"etc/pip.conf": "a"}).tag
    assert one.tag != image.Recipe("trixie", {"etc/pip.conf": "b"}).tag
    assert one.tag.startswith("localhost/steadfast-lab-trixie:")


def test_comments_do_not_train_the_model_again() -> None:
    assert model.meaning("a = 1  # one\n\n\nb = (2)\n") == model.meaning("a = 1\nb = 2")
    assert model.meaning("a = 1") != model.meaning("a = 2")


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (None, False),
        ({"recipe": "old", "trained": True, "budget": 300}, False),
        ({"recipe": "new", "trained": True, "budget": 10}, True),
        ({"recipe": "new", "trained": False, "budget": 300}, True),
        ({"recipe": "new", "trained": False, "budget": 299}, False),
    ],
)
def test_a_stand_in_is_kept_until_there_is_more_time(found: dict[str, object] | None, expected: bool) -> None:
    assert model.good(found, "new", 300) is expected


def test_a_training_time_that_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEADFAST_LAB_TRAINING_SECONDS", "2m")
    with pytest.raises(LabError, match="STEADFAST_LAB_TRAINING_SECONDS=2m"):
        model.budget()
