# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Locks: what is read, and what is refused with its line."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
from ansible_collections.steadfast.vllm.plugins.plugin_utils import _lock

A, B = "a" * 64, "b" * 64
GOOD = f"""\
# requires-python: >=3.11,<3.15
# need-bytes: 15000000000
six==1.17.0 \\
    --hash=sha256:{A} \\
    --hash=sha256:{B}
    # via nothing
Foo_Bar[extra]==2.0+cpu ; python_full_version < '3.13' \\
    --hash=sha256:{A}
"""


def test_a_lock_is_read() -> None:
    lock = _lock.parse(GOOD)
    assert [(pin.name, pin.version, pin.line, len(pin.hashes)) for pin in lock.pins] == [
        ("six", "1.17.0", 3, 2),
        ("foo-bar", "2.0+cpu", 7, 1),
    ]
    assert lock.pins[1].marker == "python_full_version < '3.13'"
    assert (lock.requires_python, lock.need_bytes) == (">=3.11,<3.15", 15_000_000_000)
    assert lock.version_of("foo.bar") == "2.0+cpu"


def test_comments_and_order_do_not_change_what_is_installed_and_hashes_do() -> None:
    one = _lock.parse(f"six==1.0 --hash=sha256:{A}\nfoo==2 --hash=sha256:{B}\n")
    other = _lock.parse(f"# why\nfoo==2 --hash=sha256:{B}  # here\nsix==1.0 \\\n  --hash=sha256:{A}\n")
    flipped = _lock.parse(f"six==1.0 --hash=sha256:{B}\nfoo==2 --hash=sha256:{B}\n")
    assert one.digest == other.digest != flipped.digest


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("six==1.17.0\n", "line 1: six: no hash"),
        (f"\n\nsix>=1.17.0 --hash=sha256:{A}\n", "line 3: six>=1.17.0: not pinned"),
        (f"six==1.* --hash=sha256:{A}\n", "line 1: six==1.*: not pinned"),
        (f"six @ https://example.org/six.whl --hash=sha256:{A}\n", "not pinned"),
        ("--index-url https://user:word@example.org/simple\n", "line 1: --index-url: a lock holds packages only"),
        ("-r other.txt\n", "line 1: -r:"),
        (f"six==1.0 --hash=sha256:{A[:-1]}\n", "line 1: six: --hash=sha256:"),
        (f"six==1.0 --hash=sha256:{A[:-1]}g\n", "line 1: six:"),
        (f"six==1.0 --hash=md5:{A[:32]}\n", "md5: not a hash to trust"),
        (f"six==1.0 --config-settings=x --hash=sha256:{A}\n", "only --hash may stand behind"),
        (f"six==1.0 --hash=sha256:{A}\nsix==1.1 --hash=sha256:{A}\n", "line 2: six: stands in line 1 already"),
        (f"six==1.0 ; nonsense --hash=sha256:{A}\n", "not an environment marker"),
        (f"six==a.b.c --hash=sha256:{A}\n", "a.b.c is not a version"),
        (f"six==1.0 \\\n  --hash=sha256:{A} \\\n", "line 1: the file ends in the middle of six==1.0"),
        (f"# requires-python: three\nsix==1.0 --hash=sha256:{A}\n", "line 1: requires-python: three"),
        (f"# need-bytes: much\nsix==1.0 --hash=sha256:{A}\n", "line 1: need-bytes: much"),
        ("# nothing\n", "no package in it"),
        ("", "no package in it"),
        ("\0\x01 <html>\n", "not pinned"),
    ],
)
def test_what_is_no_lock_is_refused_with_its_line(text: str, words: str) -> None:
    with pytest.raises(_lock.LockError) as caught:
        _lock.parse(text)
    assert words in str(caught.value)
    assert "word@example" not in str(caught.value)


def test_all_problems_come_at_once() -> None:
    with pytest.raises(_lock.LockError) as caught:
        _lock.parse(f"six==1.0\nfoo\nbar==2 --hash=sha256:{A[:9]}\n")
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["line 1", "line 2", "line 3"]


def test_a_release_has_one_version_of_its_package() -> None:
    lock = _lock.parse(
        f"six==1.0 ; python_full_version < '3.12' --hash=sha256:{A}\n"
        f"six==2.0 ; python_full_version >= '3.12' --hash=sha256:{A}\n"
    )
    with pytest.raises(_lock.LockError, match="several versions"):
        lock.version_of("six")
    with pytest.raises(_lock.LockError, match="vllm is not in it"):
        lock.version_of("vllm")


@pytest.mark.parametrize(
    ("version", "minimum", "below"),
    [
        ("0.31.0", "0.31.0", False),
        ("0.32.0+cpu", "0.31.0", False),
        ("0.31.0+cpu", "0.31.0", False),
        ("0.31.0rc1", "0.31.0", True),
        ("0.9.2", "0.31.0", True),
        ("0.31.0.post1", "0.31.0", False),
        ("1.0", "0.31.0", False),
    ],
)
def test_minimum(version: str, minimum: str, below: bool) -> None:
    assert _lock.below_minimum(version, minimum) is below


def test_without_packaging_the_plugin_loads_and_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "packaging.markers", None)
    spec = importlib.util.spec_from_file_location("lock_without_packaging", _lock.__file__)
    assert spec is not None and spec.loader is not None
    bare = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, bare)  # dataclasses look themselves up there
    spec.loader.exec_module(bare)
    with pytest.raises(bare.LibraryMissing, match=rf"packaging cannot be imported by {sys.executable}.*pip install"):
        bare.parse(GOOD)


LINUX = (
    "nvidia-cuda-runtime==13.0.96 ; platform_machine != 's390x' and sys_platform != 'darwin' \\\n    --hash=sha256:aa\n"
)
OTHERS = "nvidia-cuda-runtime==13.5.37 ; platform_machine == 's390x' or sys_platform == 'darwin' \\\n"


@pytest.mark.parametrize(
    ("text", "machine", "cuda"),
    [
        (LINUX + OTHERS, "x86_64", "13.0"),
        (OTHERS + LINUX, "aarch64", "13.0"),
        (OTHERS + LINUX, "s390x", "13.5"),
        ("nvidia-cuda-runtime-cu12==12.8.90 --hash=sha256:aa\n", "x86_64", "12.8"),
        ("nvidia-cuda-runtime-cu12==12.8.90\n", "x86_64", "12.8"),
        ("# nvidia-cuda-runtime==13.0\ntorch==2.13.0\nnvidia-cuda-nvrtc==13.0.88\n", "x86_64", ""),
        (OTHERS, "x86_64", ""),
        ("", "x86_64", ""),
    ],
)
def test_the_cuda_that_a_lock_brings(text: str, machine: str, cuda: str) -> None:
    assert _lock.cuda(text, machine) == cuda


def test_a_marker_that_is_none_is_told() -> None:
    with pytest.raises(_lock.LockError, match="snow is falling is not an environment marker"):
        _lock.cuda("nvidia-cuda-runtime==13.0.96 ; snow is falling \\\n", "x86_64")


def test_the_lock_that_is_shipped_is_for_cuda_13() -> None:
    (shipped,) = Path("roles/vllm/files/locks").glob("*.txt")
    assert _lock.cuda(shipped.read_text(), "x86_64").startswith("13.")


PARTS = {
    "flashinfer-python": "0.7.0.post1", "nvidia-cuda-runtime": "13.0.96", "nvidia-cuda-nvcc": "13.0.88",
    "nvidia-cuda-crt": "13.0.88", "nvidia-nvvm": "13.0.88", "nvidia-cuda-cccl": "13.0.85",
}  # fmt: skip


def lock_of(pins: dict[str, str | None]) -> _lock.Lock:
    """A lock of these pins; None leaves one out."""
    lines = [f"{name}=={version} --hash=sha256:{'a' * 64}" for name, version in pins.items() if version is not None]
    return _lock.parse("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, []),
        # As the lock was that a real GPU refused: the resolver had taken the newest nvcc.
        ({"nvidia-cuda-nvcc": "13.5.37"}, ["nvidia-cuda-nvcc is 13.5.37, and nvidia-cuda-runtime 13.0.96"]),
        ({"nvidia-cuda-crt": "13.5.37"}, ["nvidia-cuda-crt is 13.5.37"]),
        ({"nvidia-nvvm": None}, ["nvidia-nvvm is missing"]),
        (
            {"nvidia-cuda-cccl": "13.3.5.0.6", "nvidia-nvvm": None},
            ["nvidia-nvvm is missing", "nvidia-cuda-cccl is 13.3"],
        ),
        ({"nvidia-cuda-runtime": "13.5.1"}, ["nvidia-cuda-nvcc", "nvidia-cuda-crt", "nvidia-nvvm", "nvidia-cuda-cccl"]),
        # What compiles nothing needs none of it.
        ({"flashinfer-python": None, "nvidia-cuda-nvcc": None}, []),
        ({"nvidia-cuda-runtime": None}, []),
    ],
)
def test_what_compiles_kernels_fits_the_runtime(changed: dict[str, str | None], words: list[str]) -> None:
    found = _lock.toolkit_problems(lock_of({**PARTS, **changed}))
    assert len(found) == len(words)
    assert all(told.startswith(word) for told, word in zip(found, words))


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("file", sorted(Path("roles/vllm/files/locks").glob("*.txt")), ids=lambda file: file.name)
def test_a_host_with_the_driver_alone_can_compile_with_what_is_shipped(file: Path, machine: str, python: str) -> None:
    lock = _lock.parse(file.read_text())
    assert _lock.toolkit_problems(lock, machine, python) == []
