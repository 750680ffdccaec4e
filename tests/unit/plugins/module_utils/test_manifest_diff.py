# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a diff shows and what it hides."""

from __future__ import annotations

import pytest
from ansible_collections.steadfast.vllm.plugins.module_utils import _manifest_plan as p
from ansible_collections.steadfast.vllm.plugins.module_utils._manifest_diff import TOO_LONG, of_step, show
from ansible_collections.steadfast.vllm.plugins.module_utils._manifest_plan import Actual, Desired, Step

HERE = Actual(p.FILE, 0o644, digest="old")


def test_a_changed_content_with_the_same_attributes_is_one_entry() -> None:
    (entry,) = of_step(Step(p.WRITE, "/a"), HERE, Desired("/a", digest="new"), (b"old\n", b"new\n"), (False, ""))
    assert entry == {"before_header": "/a", "after_header": "/a", "before": "old\n", "after": "new\n"}


def test_a_changed_mode_shows_the_attributes_alone() -> None:
    (entry,) = of_step(Step(p.ATTRIBUTES, "/a"), HERE, Desired("/a", mode=0o600), (b"same", b"same"), (False, ""))
    assert "mode: 0644" in entry["before"]
    assert "mode: 0600" in entry["after"]
    assert "same" not in str(entry)


def test_a_removal_ends_in_nothing() -> None:
    found = of_step(Step(p.REMOVE, "/a"), HERE, None, (b"old\n", b""), (False, ""))
    assert [(entry["before"], entry["after"]) for entry in found] == [
        ("old\n", ""),
        ("state: file\nmode: 0644\nowner: 0\ngroup: 0\n", ""),
    ]


def test_a_secret_says_that_it_differs() -> None:
    (entry,) = of_step(Step(p.WRITE, "/a"), HERE, Desired("/a", secret=True), (b"", b""), (True, ""))
    assert (entry["before"], entry["after"]) == (
        "(secret content, not shown)\n",
        "(different secret content, not shown)\n",
    )


def test_a_directory_has_no_content() -> None:
    (entry,) = of_step(Step(p.MAKE, "/d"), Actual(), Desired("/d", p.DIRECTORY, 0o755), (b"", b""), (False, ""))
    assert (entry["before"], entry["after"]) == ("", "state: directory\nmode: 0755\nowner: 0\ngroup: 0\n")


def test_an_owner_that_check_mode_does_not_know_yet_is_said() -> None:
    (entry,) = of_step(Step(p.ATTRIBUTES, "/a"), HERE, Desired("/a", uid=-1), (b"", b""), (False, ""))
    assert "owner: (not known yet)" in entry["after"]


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        (b"", ""),
        ("Grüße\n".encode(), "Grüße\n"),
        (b"a\0b", "(binary content, 3 bytes, sha256 "),
        (b"\xff\xfe", "(binary content, 2 bytes, sha256 "),
        (b"x" * (TOO_LONG + 1), f"(long text, {TOO_LONG + 1} bytes, sha256 "),
    ],
)
def test_what_is_no_text_or_too_long_is_named_by_its_size(content: bytes, shown: str) -> None:
    assert show(content).startswith(shown)
    assert len(show(content)) < 200
