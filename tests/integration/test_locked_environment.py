# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""locked_environment on this machine, with a real uv, the package index and small locks (the small disk takes root)."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.steadfast.vllm.plugins.module_utils import _environment
from ansible_collections.steadfast.vllm.plugins.module_utils._environment import Environment, Problem, Request
from ansible_collections.steadfast.vllm.plugins.plugin_utils import _lock
from ansible_collections.steadfast.vllm.tests.real_runner import real_runner

TOP = Path(__file__).parents[2]
SYSTEM_PYTHON = "/usr/bin/python3"
# Wheels' hashes; those of the sources are left out, so that one flipped digit is one that counts.
SIX = "six==1.17.0 --hash=sha256:4721f391ed90541fddacab5acf947aa0d3dc7d27b2e1e8eda2be8970586c3274\n"
OLDER = "six==1.16.0 --hash=sha256:8abb2f1d86890a2dfb989f9a77cfcfd3e47c2a354b01111771326f8aa26e0254\n"
BESIDE = "idna==3.10 --hash=sha256:946d195a0d259cbba61165e88e65941f16e9b36ea6ddb97f00452bae8b1287d3\n"
FLIPPED = SIX.replace("sha256:4", "sha256:5")
SECRET = "s3cretword"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Where the releases go."""
    return tmp_path / "root"


def environment(root: Path, text: str = SIX, **options: Any) -> Environment:
    """The module's work without Ansible around it."""
    lock = _lock.parse(text)
    given = {
        "root": str(root),
        "lock_file": "the.lock",
        "package": "six",
        "python": SYSTEM_PYTHON,
        "python_fallback": "",
        "keep": 3,
        "uv": shutil.which("uv"),
        "need_bytes": 1000,
        "allow_builds": False,
        "compile_bytecode": True,
        "version": lock.version_of("six"),
        "digest": lock.digest,
        "pins": len(lock.pins),
        "requires_python": lock.requires_python,
        "environment": {},
        "lock": text,
        **options,
    }
    return Environment(Request(**given), real_runner())


def make(root: Path, text: str = SIX, **options: Any) -> dict[str, Any]:
    """Make it so. Returns the result."""
    return environment(root, text, **options).ensure(check_mode=False)


def releases(root: Path) -> list[str]:
    """What lies in releases/."""
    return sorted(path.name for path in (root / "releases").iterdir()) if root.exists() else []


def play(root: Path, lock: Path, *flags: str, **options: Any) -> tuple[dict[str, Any], str]:
    """The task through Ansible: its result, and all that was printed."""
    arguments = {"root": str(root), "lock_file": str(lock), "package": "six", "uv": shutil.which("uv"), **options}
    done = subprocess.run(
        [
            *("ansible", "localhost", "--inventory", "localhost,", "--connection", "local", "--one-line"),
            *("--extra-vars", f"ansible_python_interpreter={SYSTEM_PYTHON}", *flags),
            *("--module-name", "steadfast.vllm.locked_environment", "--args", json.dumps(arguments)),
        ],
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(TOP / ".collections"), "ANSIBLE_NOCOLOR": "1"},
        cwd=TOP,
        capture_output=True,
        text=True,
        check=False,
    )
    printed = done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if " => {" in line]
    assert lines, printed
    return json.loads(lines[-1].split(" => ", 1)[1]), printed


def test_through_ansible_check_build_and_nothing_to_do(root: Path, tmp_path: Path) -> None:
    lock = tmp_path / "six.txt"
    lock.write_text(SIX, encoding="utf-8")
    expected, _printed = play(root, lock, "--check")
    assert expected["changed"] and not root.exists()

    built, printed = play(root, lock, "-vvv", environment={"UV_INDEX_STRATEGY": "first-index", "MY_TOKEN": SECRET})
    assert built["installed"] and built["switched"] and built["release"] == expected["release"]
    assert SECRET not in printed
    assert os.readlink(root / "current") == f"releases/{built['release']}"

    again, _printed = play(root, lock)
    assert not (again["changed"] or again["installed"] or again["switched"] or again["pruned"])


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        (SIX, {"minimum": "2.0"}, "six 1.17.0 is below minimum 2.0: older versions have known security holes"),
        (SIX, {"package": "vllm"}, "vllm is not in it"),
        ("six==1.17.0\n", {}, "line 1: six: no hash"),
        ("# a\nsix>=1\n", {}, "line 2: six>=1: not pinned"),
    ],
)
def test_through_ansible_a_bad_lock_is_refused_before_the_host_is_asked(
    root: Path, tmp_path: Path, text: str, options: dict[str, Any], words: str
) -> None:
    lock = tmp_path / "bad.txt"
    lock.write_text(text, encoding="utf-8")
    result, _printed = play(root, lock, **options)
    assert words in result["msg"] and str(lock) in result["msg"]
    assert not root.exists()


def test_a_release_is_whole_compiled_and_only_what_the_lock_says(root: Path) -> None:
    result = make(root, SIX + BESIDE)
    packages = next((root / "current" / "lib").glob("python3*/site-packages"))
    assert sorted(path.name for path in packages.glob("*.dist-info")) == ["idna-3.10.dist-info", "six-1.17.0.dist-info"]
    assert list((packages / "__pycache__").glob("six.*.pyc"))
    assert result["python"].startswith("cpython-3.")


def test_a_flipped_hash_digit_switches_nothing_and_leaves_nothing(root: Path) -> None:
    good = make(root)
    with pytest.raises(Problem, match=r"the\.lock: line 2: six==1\.17\.0") as caught:
        make(root, BESIDE + FLIPPED)
    assert "Nothing was switched" in str(caught.value)
    assert releases(root) == [good["release"]]
    assert os.readlink(root / "current") == f"releases/{good['release']}"


def test_going_back_is_a_switch(root: Path) -> None:
    new = make(root)
    make(root, OLDER)
    back = make(root, lock=None)  # the text is not needed where the release is there
    assert (back["changed"], back["installed"], back["switched"]) == (True, False, True)
    assert back["release"] == new["release"] and len(releases(root)) == 2


def test_the_diff_shows_what_becomes_current_and_what_goes(root: Path) -> None:
    old = make(root, OLDER)["release"]
    expected = environment(root, SIX, keep=1).ensure(check_mode=True)
    new = expected["release"]
    assert expected["diff"]["before"] == f"current: {old}\nrelease: {old}\n"
    assert expected["diff"]["after"] == f"current: {new}\nrelease: {new}\n"
    assert make(root, SIX, keep=1)["diff"] == expected["diff"]


def test_a_host_that_lacks_the_release_asks_for_the_lock_first(root: Path) -> None:
    assert make(root, lock=None) == {"lock_needed": True}
    assert not root.exists()


@pytest.mark.parametrize("how", ["release", "current"])
def test_pruning_keeps_the_newest_the_current_and_what_runs(root: Path, how: str) -> None:
    first = make(root, OLDER)["release"]
    python = Path("releases", first, "bin", "python") if how == "release" else Path("current", "bin", "python")
    sleeper = subprocess.Popen([str(root / python), "-c", "import time; time.sleep(60)"])
    try:
        second = make(root, SIX, keep=1)
        assert second["pruned"] == [] and releases(root) == sorted([first, second["release"]])
        expected = environment(root, SIX, keep=1).ensure(check_mode=True)
        assert not expected["changed"]
    finally:
        sleeper.kill()
        sleeper.wait()
    assert environment(root, SIX, keep=1).ensure(check_mode=True)["pruned"] == [first]
    assert make(root, SIX, keep=1)["pruned"] == [first]
    assert releases(root) == [second["release"]]


def test_an_interrupted_build_is_made_again(root: Path) -> None:
    """kill -9 while uv works: a stand-in for uv says when, and hangs as a slow download would."""
    real = shutil.which("uv")
    slow = root.parent / "slow-uv"
    told = root.parent / "told"
    script = f'#!/bin/sh\n[ "$1" = pip ] && {{ touch {told}; sleep 3; exit 1; }}\nexec {real} "$@"\n'
    slow.write_text(script, encoding="utf-8")
    slow.chmod(0o755)
    make(root, OLDER)
    program = (
        "import sys; sys.path[:0] = [sys.argv[1], sys.argv[2]]; from pathlib import Path\n"
        "import test_locked_environment as t\n"
        "t.make(Path(sys.argv[3]), uv=sys.argv[4])\n"
    )
    builder = subprocess.Popen(
        [sys.executable, "-c", program, str(TOP / ".collections"), str(Path(__file__).parent), str(root), str(slow)]
    )
    deadline = time.monotonic() + 60
    while not told.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert told.exists()
    builder.send_signal(signal.SIGKILL)
    builder.wait()
    assert len(releases(root)) == 2 and "1.16.0" in os.readlink(root / "current")
    begun = time.monotonic()
    result = make(root)  # waits for the uv that the killed run left behind
    assert time.monotonic() - begun > 1
    assert result["installed"] and result["switched"]
    assert "1.17.0" in os.readlink(root / "current")
    assert make(root)["changed"] is False


@pytest.mark.parametrize("broken", [_environment.MARKER, "bin/python"])
def test_a_damaged_release_is_made_again(root: Path, broken: str) -> None:
    made = make(root)
    (root / "current" / broken).unlink()
    assert environment(root).ensure(check_mode=True)["installed"]
    assert make(root)["installed"] and make(root)["changed"] is False
    assert releases(root) == [made["release"]]


def test_too_little_space_is_said_before_anything_is_built(root: Path) -> None:
    with pytest.raises(Problem, match=r"free on its file system, 1000000\.0 GB needed for six 1\.17\.0"):
        make(root, need_bytes=10**15)
    assert releases(root) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 300 kB: enough for an empty environment, not for what goes in."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)], check=True)
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_disk_that_becomes_full_leaves_no_half_release(small_disk: Path) -> None:
    with pytest.raises(Problem, match="the disk became full"):
        make(small_disk, SIX + BESIDE)
    assert releases(small_disk) == [] and not (small_disk / "current").is_symlink()


def test_an_index_that_cannot_be_reached_is_named_without_its_password(root: Path) -> None:
    address = f"http://user:{SECRET}@127.0.0.1:9/simple"
    variables = {"UV_DEFAULT_INDEX": address, "UV_HTTP_RETRIES": "0", "UV_NO_CONFIG": "1", "UV_OFFLINE": "0"}
    with pytest.raises(Problem, match=r"127\.0\.0\.1:9") as caught:
        make(root, environment=variables)
    assert SECRET not in str(caught.value) and releases(root) == []


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        (SIX, {"python": "/nowhere/python3"}, "/nowhere/python3 does not run"),
        (SIX, {"python": "python3"}, "neither an interpreter's path nor a version"),
        ("# requires-python: >=4.0\n" + SIX, {}, "wants >=4.0"),
        ("# requires-python: >=4.0\n" + SIX, {"python_fallback": "3.12"}, "3.12, but the.lock wants >=4.0"),
        (SIX, {"uv": "/nowhere/uv"}, "/nowhere/uv is no program"),
        (SIX.replace("six==1.17.0", "six==1.17.00"), {}, "answers 1.17.0"),
    ],
)
def test_what_cannot_be_is_refused(root: Path, text: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(Problem) as caught:
        make(root, text, **options)
    assert words in str(caught.value)
    assert releases(root) == []


def test_a_python_that_the_lock_does_not_support_gives_way_to_the_fallback(root: Path) -> None:
    text = "# requires-python: >=3.99\n" + SIX
    assert environment(root, text, python_fallback="3.99").python() == _environment.Python("3.99", "cpython-3.99", True)
