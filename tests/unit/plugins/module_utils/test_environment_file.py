# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of environment variables: what a POSIX shell, whose rules systemd follows inside double quotes, reads back."""

from __future__ import annotations

import subprocess

import pytest
from ansible_collections.steadfast.vllm.plugins.module_utils import _environment_file
from hypothesis import given, settings
from hypothesis import strategies as st

HARD = [
    "plain",
    "",
    "a b",
    'say "x"',
    "$HOME ${HOME} `id` $(id)",
    "back\\slash\\",
    "#no",
    "50%d",
    "it's",
    "two\nlines",
    "ü",
]


def read_back(text: str) -> dict[str, str]:
    """What a shell makes of it."""
    done = subprocess.run(
        ["env", "-i", "sh", "-c", f"set -a\n{text}\nexec env -0"], capture_output=True, check=True, cwd="/"
    )
    pairs = (entry.split("=", 1) for entry in done.stdout.decode().split("\0") if entry)
    return {name: value for name, value in pairs if name.startswith("V")}


def test_every_value_is_read_back() -> None:
    variables = {f"V{number}": value for number, value in enumerate(HARD)}
    assert read_back(_environment_file.render(variables)) == variables


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(blacklist_categories=["Cs", "Cc"]), max_size=20))
def test_any_value_is_read_back(value: str) -> None:
    assert read_back(_environment_file.render({"V": value})) == {"V": value}


def test_the_text_is_sorted_and_quoted() -> None:
    assert _environment_file.render({"B": 1, "A": 'x"$\\`%#'}) == 'A="x\\"\\$\\\\\\`%#"\nB="1"\n'
    assert _environment_file.render({}) == ""


@pytest.mark.parametrize("name", ["1A", "A-B", "", "A\nB", "A="])
def test_a_bad_name_is_refused_without_its_value(name: str) -> None:
    with pytest.raises(ValueError, match="environment variable") as caught:
        _environment_file.render({name: "secret"})
    assert "secret" not in str(caught.value)


def test_nul_is_refused_without_the_value() -> None:
    with pytest.raises(ValueError, match="NUL") as caught:
        _environment_file.render({"KEY": "sec\0ret"})
    assert "sec" not in str(caught.value)
