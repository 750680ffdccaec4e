# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Words of unit files, read back as systemd reads them."""

from __future__ import annotations

import shlex

import pytest
from ansible_collections.steadfast.vllm.plugins.module_utils import _systemd
from hypothesis import given, settings
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


def test_directives_by_section_in_the_order_given() -> None:
    given = {
        "Service": {"Nice": -5, "SupplementaryGroups": ["video", "render"], "PrivateTmp": False, "ExecStartPre": ""},
        "Unit": {"After": "nfs-client.target", "X-Owner": '50% "me"'},
    }
    assert _systemd.directives(given) == {
        "Unit": [("After", "nfs-client.target"), ("X-Owner", '50% "me"')],
        "Service": [
            ("Nice", "-5"),
            ("SupplementaryGroups", "video"),
            ("SupplementaryGroups", "render"),
            ("PrivateTmp", "no"),
            ("ExecStartPre", ""),
        ],
        "Install": [],
    }
    assert _systemd.directives({}) == {"Unit": [], "Service": [], "Install": []}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([], "[] is not a map of the sections Unit, Service, Install"),
        ({"service": {}}, "service: unknown section, did you mean Service?"),
        ({"Timer": {}}, "Timer: unknown section, known are Unit, Service, Install"),
        ({"Service": ["Nice=1"]}, "Service: ['Nice=1'] is not a map of directives"),
        ({"Service": {"Nice=1\nUser": "root"}}, "is not the name of a directive"),
        ({"Service": {7: "x"}}, "Service.7: is not the name of a directive"),
        ({"Service": {"Nice": None}}, "Service.Nice: nothing is not a value"),
        ({"Service": {"Nice": {"a": 1}}}, "Service.Nice: a map is not a value"),
        ({"Service": {"Nice": [1, [2]]}}, "Service.Nice[1]: a list is not a value"),
        ({"Service": {"Nice": []}}, "Service.Nice: an empty list says nothing"),
        ({"Service": {"Nice": "1\nUser=root"}}, "Service.Nice: a line break or NUL would end the directive"),
        ({"Service": {"Nice": ["1", "1\r"]}}, "Service.Nice[1]: a line break or NUL"),
        ({"Service": {"Nice": "1\0"}}, "Service.Nice: a line break or NUL"),
        ({"Service": {"Environment": "A=hunter2\\"}}, "Service.Environment: a backslash at the end would join"),
    ],
)
def test_a_wrong_directive_is_named_and_its_value_not_repeated(given: object, says: str) -> None:
    with pytest.raises(ValueError, match=r"is not|unknown|would|says nothing") as caught:
        _systemd.directives(given)
    assert says in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_all_wrong_directives_are_told_at_once() -> None:
    with pytest.raises(ValueError, match="unknown section") as caught:
        _systemd.directives({"Timer": {}, "Unit": {"After": None}, "Service": {"Nice": "\n"}})
    assert len(str(caught.value).splitlines()) == 3


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
sections = st.sampled_from(["Unit", "Service", "Install", "Timer"])
some_directives = st.dictionaries(
    sections, st.dictionaries(st.sampled_from(["Nice", "A b", "X-y"]), anything) | anything
)


@settings(max_examples=100, deadline=None)
@given(anything | some_directives)
def test_each_value_stays_one_directive_or_is_refused(given_value: object) -> None:
    try:
        found = _systemd.directives(given_value)
    except ValueError:
        return
    for lines in found.values():
        for directive, value in lines:
            line = f"{directive}={value}"
            assert line.rstrip("\n\r\0\\") == line
            assert "\n" not in line
            assert "\r" not in line
