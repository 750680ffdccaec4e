# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which lines of a log are shown as errors."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as hs
from vllm_keeper import errors

ENGINE = "(EngineCore_DP0 pid=41) ERROR 11-22 06:00:00 [core.py:843] "
JOURNAL = "2026-11-22T06:00:01+0000 gpu1 qwen3vl[12]: "


@pytest.mark.parametrize(
    "line",
    [
        "vllm serve: error: unrecognized arguments: --no-such",
        "OSError: [Errno 98] Address already in use",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB",
        ENGINE + "ValueError: No available memory for the cache blocks.",
        JOURNAL + "RuntimeError: Engine core initialization failed.",
        "ERROR:    [Errno 98] error while attempting to bind on address ('0.0.0.0', 8000): address already in use",
        "/bin/sh: 1: cannot create /var/log/x: No space left on device",
        "KeyboardInterrupt",
    ],
)
def test_an_error_is_seen(line: str) -> None:
    assert errors.pick(["INFO 11-22 06:00:00 [api_server.py:1] fine", line, "bye"], 5) == [line]


@pytest.mark.parametrize(
    "line",
    [
        "(APIServer pid=1) INFO 11-22 06:00:00 [loggers.py:2] Avg prompt throughput: 0.0, errors: 0",
        'INFO:     10.0.0.1:1 - "POST /v1/completions HTTP/1.1" 200 OK',
        "(APIServer pid=1) WARNING 11-22 06:00:00 [x.py:1] falling back after ValueError: no flash attention",
        "vllm-keeper run: q: ended: exited with status 1; OSError: no",
        ENGINE + "Traceback (most recent call last):",
        ENGINE + '  File "/opt/vllm/core.py", line 7, in run',
        ENGINE + "    raise ValueError: no",
        ENGINE + "    ^^^^^^^^^",
    ],
)
def test_what_is_no_error_or_only_the_way_to_one_is_not(line: str) -> None:
    assert errors.pick([line], 5) == []


def test_a_traceback_comes_down_to_what_it_says_and_what_is_told_twice_is_told_once() -> None:
    told = [ENGINE + "Traceback (most recent call last):", ENGINE + "  x()", ENGINE + "ValueError: too small"]
    later = [line.replace("06:00:00", "06:01:00").replace("pid=41", "pid=77") for line in told]
    assert errors.pick([*told, "between", *later], 5) == [later[-1]]


def test_the_last_ones_are_shown_in_their_order() -> None:
    lines = [f"error: {number}" for number in range(9)]
    assert errors.pick(lines, 3) == lines[-3:]


@given(hs.lists(hs.text(max_size=60)), hs.integers(1, 5))
def test_whatever_the_log_holds(lines: list[str], most: int) -> None:
    found = errors.pick(lines, most)
    assert len(found) <= most
    places = [len(lines) - 1 - lines[::-1].index(line) for line in found]
    assert places == sorted(places)
