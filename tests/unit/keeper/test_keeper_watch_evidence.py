# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the watcher keeps of its decisions: whole, private, bounded, and never in the way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some
from vllm_keeper.watch import evidence
from vllm_keeper.watch.evidence import KEEP, Book, Incident
from vllm_keeper.watch.steps import LONGEST, WORK, Bucket, Step, Steps

STEPS = Steps((Bucket(1_700_000_300.0, 12.5, Step(3.25, 1.25)), Bucket(1_700_000_000.0, WORK)))


def incident(at: float = 1.0, **changes: object) -> Incident:
    return Incident(**{"at": at, "verdict": "hung", "action": "kill and restart", "reason": "x", **changes})  # type: ignore[arg-type]


def test_what_was_saved_is_what_is_loaded(tmp_path: Path) -> None:
    book = Book(STEPS, [incident(pid=7, seconds=1.6, looks=["a", "b"], outcome="killed", served_again=4.5)])
    evidence.save(tmp_path, "q", book)
    assert evidence.load(tmp_path, "q") == book
    assert evidence.load(tmp_path, "other") == Book()


def test_it_is_roots_alone_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    evidence.save(tmp_path / "var", "q", Book())
    assert (tmp_path / "var").stat().st_mode & 0o777 == 0o700
    (file,) = (tmp_path / "var").iterdir()
    assert file.name == "q.watch"
    assert file.stat().st_mode & 0o777 == 0o600


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    evidence.save(tmp_path, "q", Book(Steps(), [incident(number) for number in range(3 * KEEP)]))
    assert [one.at for one in evidence.load(tmp_path, "q").incidents] == list(range(2 * KEEP, 3 * KEEP))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '"x"',
        '{"version": 3, "steps": [], "incidents": []}',
        '{"version": [], "steps": [], "incidents": []}',
        '{"version": 2, "longest": 1, "incidents": []}',
        '{"version": 2, "steps": "soon", "incidents": []}',
        '{"version": 2, "steps": [7], "incidents": []}',
        '{"version": 2, "steps": [{}], "incidents": []}',
        '{"version": 2, "steps": [{"since": NaN, "worked": 1, "taken": 1, "idle": 1}], "incidents": []}',
        '{"version": 2, "steps": [{"since": 1, "worked": 1, "taken": Infinity, "idle": 1}], "incidents": []}',
        '{"version": 2, "steps": [{"since": 1' + "0" * 400 + ', "worked": 1, "taken": 1, "idle": 1}], "incidents": []}',
        '{"version": 2, "steps": []}',
        '{"version": 1, "longest": 1, "incidents": [{}]}',
        '{"version": 1, "longest": 1, "incidents": [7]}',
        '{"version": 1, "longest": 1, "incidents": 7}',
        '{"version": 1, "longest": 1, "incidents": [{"at": 1, "verdict": "", "action": "", "reason": "", "new": 1}]}',
        "[" * 100_000,
    ],
)
def test_what_cannot_be_read_is_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "q.watch").write_text(text)
    assert evidence.load(tmp_path, "q") == Book()
    evidence.save(tmp_path, "q", Book(STEPS))
    assert evidence.load(tmp_path, "q") == Book(STEPS)


def test_the_file_of_a_version_before_keeps_its_incidents_and_forgets_its_longest_step(tmp_path: Path) -> None:
    one = {"at": 1.0, "verdict": "hung", "action": "kill and restart", "reason": "x", "pid": 7, "looks": ["a"]}
    (tmp_path / "q.watch").write_text(json.dumps({"version": 1, "longest": 2.23, "incidents": [one]}))
    assert evidence.load(tmp_path, "q") == Book(Steps(), [incident(pid=7, looks=["a"])])


def test_what_no_server_took_is_no_step(tmp_path: Path) -> None:
    wild = [{"since": 5, "worked": 1e9, "taken": 1e9, "idle": -3}] * 40
    (tmp_path / "q.watch").write_text(json.dumps({"version": 2, "steps": wild, "incidents": []}))
    buckets = evidence.load(tmp_path, "q").steps.buckets
    assert set(buckets) == {Bucket(5.0, WORK, Step(LONGEST, 0.0))}
    assert len(buckets) == 4


def test_bytes_that_are_no_text_are_as_none(tmp_path: Path) -> None:
    (tmp_path / "q.watch").write_bytes(b"\xff\xfe\0")
    assert evidence.load(tmp_path, "q") == Book()


@given(some.integers(0, 1000))
def test_a_file_torn_anywhere_is_as_none(tmp_path_factory: pytest.TempPathFactory, place: int) -> None:
    folder = tmp_path_factory.mktemp("torn")
    evidence.save(folder, "q", Book(STEPS, [incident(looks=["a look"])]))
    whole = (folder / "q.watch").read_bytes()
    (folder / "q.watch").write_bytes(whole[: min(place, len(whole) - 3)])
    assert evidence.load(folder, "q") == Book()


def test_a_place_that_cannot_be_written_is_told_and_leaves_the_old_one(tmp_path: Path) -> None:
    evidence.save(tmp_path, "q", Book(STEPS))
    (tmp_path / "r.watch").mkdir()  # so that it cannot be replaced
    with pytest.raises(OSError, match=r"r\.watch"):
        evidence.save(tmp_path, "r", Book())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["q.watch", "r.watch"]
    with pytest.raises(OSError, match=r"q\.watch"):
        evidence.save(tmp_path / "q.watch", "q", Book())
    assert evidence.load(tmp_path, "q") == Book(STEPS)


def test_forgotten_is_gone_and_may_be_forgotten_twice(tmp_path: Path) -> None:
    evidence.save(tmp_path, "q", Book(STEPS))
    evidence.forget(tmp_path, "q")
    evidence.forget(tmp_path, "q")
    assert list(tmp_path.iterdir()) == []


def test_only_the_last_incident_can_be_open() -> None:
    assert evidence.open_incident([]) is None
    last = incident(2.0)
    assert evidence.open_incident([incident(), last]) is last
    assert evidence.open_incident([incident(), incident(served_again=3.0)]) is None
    assert evidence.open_incident([incident(dry_run=True)]) is None


def test_the_file_is_for_people_too(tmp_path: Path) -> None:
    evidence.save(tmp_path, "q", Book(Steps(), [incident(looks=["10:00:00 healthy"])]))
    text = (tmp_path / "q.watch").read_text()
    assert json.loads(text)["version"] == 2
    assert len(text.splitlines()) > 10
