# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What of a running server may be shown."""

from __future__ import annotations

import shlex

import pytest
from ansible_collections.steadfast.vllm.plugins.module_utils import _adopt_secrets
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("vllm serve m --port 1", "vllm serve m --port 1"),
        ("vllm serve m --api-key S", "vllm serve m --api-key ****"),
        ("vllm serve m --api-key S1 S2 --port 1", "vllm serve m --api-key **** **** --port 1"),
        ("vllm serve m --api-key=S", "vllm serve m --api-key=****"),
        ("vllm serve m --api_key S", "vllm serve m --api_key ****"),
        ("vllm serve m --hf-token S --seed 0", "vllm serve m --hf-token **** --seed 0"),
        ("vllm serve m --my-password=S", "vllm serve m --my-password=****"),
        ("vllm serve m --max-num-batched-tokens 8192", "vllm serve m --max-num-batched-tokens 8192"),
        ("vllm serve m --tokenizer t", "vllm serve m --tokenizer t"),
        ("vllm serve m --ssl-keyfile /k", "vllm serve m --ssl-keyfile /k"),
        ("vllm serve m --otlp-traces-endpoint http://u:S@h:1", "vllm serve m --otlp-traces-endpoint http://****@h:1"),
        ("vllm serve hf_abcdefghijklmnopqrst", "vllm serve ****"),
        ("env VLLM_API_KEY=S vllm serve m", "env VLLM_API_KEY=**** vllm serve m"),
        ("""vllm serve m --x '{"secret_key": "S", "a": 1}'""", """vllm serve m --x '{"secret_key": "****", "a": 1}'"""),
        ("""vllm serve m --x='{"token": "S"}'""", """vllm serve m '--x={"token": "****"}'"""),
        ("vllm serve m --x '{secret: S'", "vllm serve m --x ****"),
    ],
)
def test_a_command_line(line: str, shown: str) -> None:
    assert _adopt_secrets.blank_argv(shlex.split(line)) == shlex.split(shown)


@given(st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=9, max_size=30), st.booleans())
def test_the_value_of_a_secret_option_is_never_shown(value: str, glued: bool) -> None:
    words = [f"--api-key={value}"] if glued else ["--api-key", value]
    assert value not in " ".join(_adopt_secrets.blank_argv(["vllm", "serve", "m", *words]))


def test_variables() -> None:
    harmless, secret = _adopt_secrets.shown_environment(
        {
            "VLLM_LOGGING_LEVEL": "INFO",
            "CUDA_VISIBLE_DEVICES": "0",
            "VLLM_API_KEY": "S",
            "HF_TOKEN": "S",
            "AWS_SECRET_ACCESS_KEY": "S",
            "DATABASE_URL": "postgres://u:S@h",
            "HTTPS_PROXY": "http://u:S@proxy:1",
            "MY_NOTE": "sk-abcdefghijklmnopqrstuvwx",
            "EDITOR": "vi",
            "PWD": "/home/ada",
            "BASH_FUNC_x%%": "() { :; }",
        }
    )
    assert harmless == {"CUDA_VISIBLE_DEVICES": "0", "VLLM_LOGGING_LEVEL": "INFO"}
    assert secret == ["AWS_SECRET_ACCESS_KEY", "DATABASE_URL", "HF_TOKEN", "HTTPS_PROXY", "MY_NOTE", "VLLM_API_KEY"]
