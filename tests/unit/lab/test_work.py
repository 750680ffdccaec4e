# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Steps are done once, whoever asks and whenever they were cut off."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from labkit.work import LabError, Workshop, run


def test_a_step_is_done_once_by_two_at_a_time(tmp_path: Path) -> None:
    done = tmp_path / "done"
    made: list[int] = []

    def make() -> str:
        time.sleep(0.2)
        made.append(1)
        done.touch()
        return "well"

    shops = [Workshop(tmp_path), Workshop(tmp_path)]
    threads = [threading.Thread(target=shop.step, args=("a step", done.exists, make)) for shop in shops]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [1]
    assert sorted(len(shop.steps) for shop in shops) == [0, 1]
    assert "a step: done in" in shops[0].log.read_text()


def test_what_a_killed_run_left_goes(tmp_path: Path) -> None:
    shop = Workshop(tmp_path)
    with shop.scratch("x") as folder:
        (folder / "half").touch()
    left = shop.lab / "tmp" / "x"
    assert not left.exists()
    left.mkdir()
    (left / "half").touch()
    with shop.scratch("x") as folder:
        assert list(folder.iterdir()) == []


def test_a_failed_step_says_what_the_command_wrote(tmp_path: Path) -> None:
    shop = Workshop(tmp_path)
    with pytest.raises(LabError, match=r"baking: `sh -c .*3:\nno flour"):
        shop.step("bread", lambda: False, lambda: run(["sh", "-c", "echo no flour >&2; exit 3"], "baking"))
    assert "bread: failed after" in shop.log.read_text()


def test_a_missing_program_is_named() -> None:
    with pytest.raises(LabError, match="no-such-program is not installed"):
        run(["no-such-program"], "looking")
