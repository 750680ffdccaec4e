# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Words of unit files, read back as systemd reads them."""

from __future__ import annotations

import shlex

import pytest
from ansible_collections.steadfast.vllm.plugins.module_utils import _systemd
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("text", "word"),
    [("A=b", '"A=b"'), ('A="b"', '"A=\\"b\\""'), ("A=50%", '"A=50%%"'), ("A=a\\b", '"A=a\\\\b"'), ("A=b c", '"A=b c"')],
)
def test_quote(text: str, word: str) -> None:
    assert _systemd.quote(text) == word


@pytest.mark.parametrize("text", ["A=b\nExecStart=/bin/sh", "A=b\r", "A=\0"])
def test_a_line_break_cannot_smuggle_a_directive(text: str) -> None:
    with pytest.raises(ValueError, match="line break or NUL"):
        _systemd.quote(text)


@given(st.text(st.characters(codec="ascii", exclude_characters="\n\r\0")))
def test_quoted_words_read_back(text: str) -> None:
    # Inside double quotes the shell's rules for backslash and quote are systemd's; $ and ` are plain in a unit file.
    plain = text.replace("$", "").replace("`", "")
    assert shlex.split(_systemd.quote(plain)) == [plain.replace("%", "%%")]


def test_limits_become_directives_in_a_fixed_order() -> None:
    limits = {"tasks": 4096, "memory": "64G", "cpu": None, "oom_score_adjust": -500}
    assert _systemd.limit_directives(limits) == [("MemoryMax", "64G"), ("TasksMax", "4096"), ("OOMScoreAdjust", "-500")]
