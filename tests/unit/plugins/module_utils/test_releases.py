# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Decisions about releases, by tables and properties."""

from __future__ import annotations

import pytest
from ansible_collections.steadfast.vllm.plugins.module_utils import _releases
from ansible_collections.steadfast.vllm.plugins.module_utils._releases import Release
from hypothesis import given
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet


def test_an_id_changes_with_lock_and_python_only() -> None:
    name = _releases.release_id("0.32.0+cpu", "d1", "cpython-3.11")
    assert name.startswith("0.32.0+cpu-") and len(name) == len("0.32.0+cpu-") + 12
    assert name == _releases.release_id("0.32.0+cpu", "d1", "cpython-3.11")
    assert name != _releases.release_id("0.32.0+cpu", "d2", "cpython-3.11")
    assert name != _releases.release_id("0.32.0+cpu", "d1", "cpython-3.12")
    assert "/" not in _releases.release_id("1!2/../x", "d", "p")


@pytest.mark.parametrize(
    ("specifiers", "version", "allowed"),
    [
        ("", [3, 9, 2], True),
        (">=3.11,<3.15", [3, 11, 2], True),
        (">=3.11,<3.15", [3, 10, 12], False),
        (">=3.11,<3.15", [3, 15, 0], False),
        (">=3.11, !=3.12.*", [3, 12, 4], False),
        ("==3.12.*", [3, 12, 4], True),
        (">3.11", [3, 11, 2], True),
        ("<=3.11", [3, 11, 2], False),
    ],
)
def test_python_allowed(specifiers: str, version: list[int], allowed: bool) -> None:
    assert _releases.python_allowed(specifiers, version) is allowed


@given(
    st.lists(st.sampled_from([">=3.9", ">=3.11", "<3.13", "<=3.12.4", "!=3.12.*", "==3.11.*"]), max_size=3),
    st.tuples(st.just(3), st.integers(8, 15), st.integers(0, 9)),
)
def test_python_allowed_agrees_with_packaging(specifiers: list[str], version: tuple[int, int, int]) -> None:
    text = ",".join(specifiers)
    assert _releases.python_allowed(text, version) == SpecifierSet(text).contains(".".join(map(str, version)))


def test_python_allowed_does_not_guess() -> None:
    with pytest.raises(ValueError, match=r"~=3\.11 is not understood"):
        _releases.python_allowed("~=3.11", [3, 11, 0])


RELEASES = [Release("new", True, 4), Release("mid", True, 3), Release("old", True, 2), Release("half", False, 0)]


@pytest.mark.parametrize(
    ("current", "keep", "busy", "gone"),
    [
        ("new", 3, [], ["half"]),
        ("new", 2, [], ["half", "old"]),
        ("new", 1, [], ["half", "mid", "old"]),
        ("new", 0, [], ["half", "mid", "old"]),
        ("new", 1, ["old"], ["half", "mid"]),
        ("old", 2, [], ["half", "mid"]),
        ("next", 2, [], ["half", "mid", "old"]),
        ("half", 3, [], ["old"]),
    ],
)
def test_prune(current: str, keep: int, busy: list[str], gone: list[str]) -> None:
    assert _releases.to_prune(RELEASES, current, keep, busy) == gone


@given(
    st.lists(
        st.builds(Release, st.text("abc", min_size=1, max_size=3), st.booleans(), st.floats(0, 9)),
        unique_by=lambda r: r.name,
    ),
    st.integers(0, 4),
    st.sets(st.text("abc", min_size=1, max_size=3)),
    st.text("abc", min_size=1, max_size=3),
)
def test_pruning_never_takes_the_current_or_a_busy_one_and_settles(
    releases: list[Release], keep: int, busy: set[str], current: str
) -> None:
    gone = _releases.to_prune(releases, current, keep, busy)
    assert current not in gone and not busy & set(gone)
    left = [release for release in releases if release.name not in gone]
    assert _releases.to_prune(left, current, keep, busy) == []
    spare = [r for r in left if r.complete and r.name != current and r.name not in busy]
    assert len(spare) <= max(keep - 1, 0)


def test_hash_failures_are_recognised_and_located() -> None:
    said = "error: Failed to download `Foo_Bar==1.0`\n  cause: Hash mismatch for `foo-bar==1.0`\n"
    assert _releases.hash_failure(said) == "foo-bar==1.0"
    assert _releases.hash_failure("error: no such host") == ""
    assert _releases.line_of("foo-bar==1.0", "# x\nsix==1 \\\nFoo_Bar[x]==1.0 \\\n") == 3
    assert _releases.line_of("other==1.0", "six==1\n") == 0


@pytest.mark.parametrize(
    ("text", "environment", "shown"),
    [
        (
            "GET https://u:pw9@host/simple",
            {"UV_INDEX_URL": "https://u:pw9@host/simple"},
            "GET https://****@host/simple",
        ),
        ("said pw9 again", {"UV_INDEX_URL": "https://u:pw9@host/simple"}, "said **** again"),
        ("token hf_x in text", {"HF_TOKEN": "hf_x"}, "token **** in text"),
        ("retries 1 of 1", {"UV_HTTP_RETRIES": "1"}, "retries 1 of 1"),
        ("nothing", {"HF_TOKEN": ""}, "nothing"),
    ],
)
def test_redact(text: str, environment: dict[str, str], shown: str) -> None:
    assert _releases.redact(text, environment) == shown


@pytest.mark.parametrize(("size", "text"), [(5, "5 B"), (1500, "2 kB"), (15e9, "15.0 GB"), (2.5e12, "2500.0 GB")])
def test_human(size: float, text: str) -> None:
    assert _releases.human(size) == text
