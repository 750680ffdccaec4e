"""The locks: complete, by hash, and free of any address, so that they work with whatever index a machine has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
INPUTS = sorted((ROOT / "requirements").glob("*.in"))
LOCKS = sorted([*(ROOT / "requirements").glob("*.txt"), *ROOT.glob("roles/*/files/**/*.txt")])
ADDRESS = re.compile(r"://|\bfile:|--(extra-)?index-url|--find-links|--trusted-host|(^|\s)-[if]\s|@\s*/", re.MULTILINE)


def place(file: Path) -> str:
    return str(file.relative_to(ROOT))


def pins(lock: Path) -> list[tuple[Requirement, int]]:
    """Each pinned requirement with the number of its hashes."""
    joined = lock.read_text().replace("\\\n", " ")
    lines = [line.strip() for line in joined.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return [(Requirement(line.split("--hash", 1)[0].strip()), line.count("--hash=sha256:")) for line in lines]


def test_there_are_locks() -> None:
    assert [file.name for file in INPUTS] == ["bootstrap.in", "dev.in"]
    assert {place(file) for file in LOCKS} >= {"requirements/bootstrap.txt", "requirements/dev.txt"}
    assert all(pins(file.with_suffix(".txt")) for file in INPUTS)


@pytest.mark.parametrize("file", [*INPUTS, *LOCKS], ids=place)
def test_no_address_stands_in_it(file: Path) -> None:
    found = [line for line in file.read_text().splitlines() if ADDRESS.search(line)]
    assert found == []


@pytest.mark.parametrize("lock", LOCKS, ids=place)
def test_every_package_is_pinned_and_has_a_hash(lock: Path) -> None:
    loose = [str(pin) for pin, hashes in pins(lock) if not hashes or not re.fullmatch(r"==[^*,]+", str(pin.specifier))]
    assert loose == []


@pytest.mark.parametrize("wanted", INPUTS, ids=place)
def test_the_lock_satisfies_what_is_asked_for(wanted: Path) -> None:
    locked = {
        canonicalize_name(pin.name): next(iter(pin.specifier)).version for pin, _ in pins(wanted.with_suffix(".txt"))
    }
    for line in wanted.read_text().splitlines():
        asked = Requirement(line)
        version = locked.get(canonicalize_name(asked.name))
        assert version is not None, f"{place(wanted)}: {line} is not locked; run make locks"
        assert asked.specifier.contains(version), f"{place(wanted)}: {line}, but {version} is locked; run make locks"


def test_uv_is_never_older_than_its_security_floor() -> None:
    floor = Requirement("uv>=0.12.11").specifier
    for lock in LOCKS:
        for pin, _ in pins(lock):
            if canonicalize_name(pin.name) == "uv":
                assert floor.contains(next(iter(pin.specifier)).version), place(lock)


@pytest.mark.parametrize(
    "line",
    [
        "--index-url https://mirror.example/simple",
        "-i https://mirror.example/simple",
        "--find-links /srv/wheels",
        "torch @ file:///srv/wheels/torch.whl",
        "torch @ /srv/wheels/torch.whl",
        "uv @ https://mirror.example/uv.whl",
    ],
)
def test_an_address_would_be_seen(line: str) -> None:
    assert ADDRESS.search(line)
