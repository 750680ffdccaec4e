# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host's systemd gets only what it knows."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.steadfast.vllm.plugins.filter.systemd_lines import systemd_lines
from ansible_collections.steadfast.vllm.plugins.module_utils import _systemd_versions as versions
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("directive", "value", "first"),
    [
        ("Restart", "always", 249),
        ("ProtectProc", "invisible", 249),
        ("SocketBindDeny", "any", 249),
        ("ExitType", "cgroup", 250),
        ("RestrictFileSystems", "ext4", 250),
        ("ExtensionDirectories", "/x", 251),
        ("OpenFile", "/x", 253),
        ("Type", "exec", 249),
        ("Type", "notify-reload", 253),
        ("RestartSteps", "5", 254),
        ("SetLoginEnvironment", "yes", 255),
        ("MemoryZSwapWriteback", "no", 256),
        ("PrivatePIDs", "yes", 257),
        ("PrivateTmp", "yes", 249),
        ("PrivateTmp", "disconnected", 257),
        ("PrivateTmp", " disconnected ", 257),
        ("ProtectControlGroups", "strict", 257),
    ],
)
def test_first_version(directive: str, value: str, first: int) -> None:
    assert versions.needs(directive, value) == first
    assert versions.supported([(directive, value)], first) == ([(directive, value)], [])
    if first > versions.OLDEST:
        assert versions.supported([(directive, value)], first - 1) == ([], [versions.LeftOut(directive, first)])


def test_without_a_version_a_host_is_taken_for_the_oldest() -> None:
    pairs = [("ExitType", "cgroup"), ("Restart", "always")]
    assert (
        versions.supported(pairs, None)
        == versions.supported(pairs, versions.OLDEST)
        == (pairs[1:], [("ExitType", 250)])
    )


def test_lines_name_what_is_left_out_and_not_its_value() -> None:
    pairs = [("ImportCredential", "hunter2"), ("Nice", "5"), ("ImportCredential", "hunter3")]
    assert versions.lines(pairs, 252) == ["Nice=5", "# ImportCredential= is left out: it needs systemd 254 or later."]
    assert versions.lines(pairs, 254) == ["ImportCredential=hunter2", "Nice=5", "ImportCredential=hunter3"]


def test_the_filter_takes_the_fact_as_it_comes() -> None:
    assert systemd_lines([["Nice", "5"]], "252") == ["Nice=5"]  # type: ignore[list-item, arg-type]
    with pytest.raises(AnsibleFilterError, match="'v252' is not a version of systemd"):
        systemd_lines([], "v252")  # type: ignore[arg-type]


names = st.sampled_from([*versions.FIRST_VERSION, "Nice", "Type", "PrivateTmp"])
pairs_of_directives = st.lists(st.tuples(names, st.sampled_from(["yes", "disconnected", "notify-reload"])), max_size=8)


@given(pairs_of_directives, st.integers(249, 257))
def test_nothing_gets_lost_and_a_newer_systemd_takes_no_less(pairs: list[tuple[str, str]], version: int) -> None:
    kept, left_out = versions.supported(pairs, version)
    assert len(kept) + len(left_out) == len(pairs)
    assert all(needed > version for _directive, needed in left_out)
    newer, _rest = versions.supported(pairs, version + 1)
    assert [pair for pair in newer if pair in kept] == kept
    assert versions.supported(pairs, max(versions.FIRST_VERSION.values())) == (pairs, [])
