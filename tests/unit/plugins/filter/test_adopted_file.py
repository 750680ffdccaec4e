# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was found as a file of variables: text stays text, whoever wrote it."""

from __future__ import annotations

import tempfile
import typing as t

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar
from ansible_collections.steadfast.vllm.plugins.filter.adopted_file import adopted_file
from hypothesis import given
from hypothesis import strategies as st


def server(entry: dict[str, t.Any], secrets: tuple[tuple[str, str], ...] = (), **more: t.Any) -> dict[str, t.Any]:
    return {
        "entry": {"name": "mine", "model": "/m", **entry},
        "secrets": [{"key": key, "variable": variable, "source": "--api-key"} for key, variable in secrets],
        "problems": [],
        "notes": [],
        "managed": "",
        "started": "in the background",
        "pid": 7,
        **more,
    }


def read(text: str, **variables: str) -> t.Any:
    """As Ansible reads a file of variables."""
    loader = DataLoader()
    with tempfile.NamedTemporaryFile("w", suffix=".yml", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        told = loader.load_from_file(file.name, trusted_as_template=True)
    return Templar(loader, variables=variables).template(told)


def test_secrets_are_the_only_templates() -> None:
    text = adopted_file(
        [
            server(
                {
                    "api_key": "{{ vault_mine_api_key }}",
                    "env": {"A": "1"},
                    "extra_args": {"chat-template": "{{ evil }}"},
                },
                (("api_key", "vault_mine_api_key"), ("env.B", "vault_mine_b")),
            )
        ],
        "gpu1",
    )
    assert "running on gpu1" in text
    (entry,) = read(text, vault_mine_api_key="one", vault_mine_b="two", evil="CALLED")["vllm_instances"]
    assert entry["api_key"] == "one"
    assert entry["env"] == {"A": "1", "B": "two"}
    assert entry["extra_args"] == {"chat-template": "{{ evil }}"}


def test_what_cannot_be_taken_over_is_left_out() -> None:
    assert read(adopted_file([server({}, problems=["x"]), server({}, managed="a")]))["vllm_instances"] == []


def test_a_host_chooses_no_variable() -> None:
    with pytest.raises(ValueError, match="not a variable for a secret"):
        adopted_file([server({}, (("api_key", "lookup('pipe', 'id')"),))])


@given(st.text(max_size=30), st.text(max_size=30))
def test_any_text_comes_back_as_it_was(value: str, note: str) -> None:
    try:
        text = adopted_file([server({"env": {"A": value}}, notes=[note])], note)
    except UnicodeEncodeError:
        return
    (entry,) = read(text)["vllm_instances"]
    assert entry["env"]["A"] == value
