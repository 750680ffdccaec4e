# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the kernel tells of a directory's files; with a real one."""

from __future__ import annotations

import select
from collections.abc import Iterator
from pathlib import Path

import pytest
from vllm_keeper import wholefile
from vllm_keeper.watch.family import Family
from vllm_keeper.watch.notice import Notice


@pytest.fixture
def notice(tmp_path: Path) -> Iterator[Notice]:
    made = Notice(tmp_path)
    yield made
    made.close()


def told(notice: Notice) -> bool:
    return bool(select.select([notice], [], [], 0)[0])


def test_a_replaced_file_is_told_once(notice: Notice, tmp_path: Path) -> None:
    assert not told(notice)
    assert notice.lasts(), "nothing was told, and more can be"
    wholefile.write(tmp_path / "q.json", "{}")
    assert told(notice)
    assert notice.lasts()
    assert not told(notice)


def test_a_removed_file_is_told(notice: Notice, tmp_path: Path) -> None:
    (tmp_path / "q.json").write_text("{}")
    notice.lasts()
    (tmp_path / "q.json").unlink()
    assert told(notice)
    assert notice.lasts()


def test_what_is_only_read_or_locked_is_not(notice: Notice, tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("")
    (tmp_path / "lock").read_text()
    with (tmp_path / "lock").open("a"):
        pass
    assert not told(notice)


def test_many_changes_are_taken_in_turn(notice: Notice, tmp_path: Path) -> None:
    for number in range(2000):
        wholefile.write(tmp_path / f"{'long-name' * 20}{number}", "", durable=False)
    turns = 0
    while told(notice):
        assert notice.lasts()
        turns += 1
    assert turns > 1


def test_after_the_directory_has_gone_nothing_is_told_any_more(tmp_path: Path) -> None:
    folder = tmp_path / "var"
    folder.mkdir()
    notice = Notice(folder)
    (folder / "q.json").write_text("{}")
    (folder / "q.json").unlink()
    folder.rmdir()
    assert not notice.lasts()
    notice.close()


def test_a_directory_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Notice(tmp_path / "none")


def test_a_family_goes_on_without_it(tmp_path: Path) -> None:
    folder = tmp_path / "var"
    family = Family()
    family.heed(folder)
    assert family.notice is None
    folder.mkdir()
    family.heed(folder)
    assert family.notice is not None
    folder.rmdir()
    family.wait(0)
    assert family.notice is None
    family.wait(0)
    family.close()
