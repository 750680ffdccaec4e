# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Supervisor's own spelling: read back by parsers that do what supervisor's do."""

from __future__ import annotations

import configparser
import shlex
from typing import Any

import pytest
from ansible_collections.steadfast.vllm.plugins.module_utils import _instances, _supervisor
from hypothesis import given
from hypothesis import strategies as some

OPTIONS = {
    "keeper": "/usr/local/bin/vllm-keeper", "user": "vllm", "group": "vllm", "home": "/var/lib/vllm",
    "release": "/opt/vllm/current", "path": "/usr/bin:/bin",
}  # fmt: skip


def instance(**keys: Any) -> dict[str, Any]:
    one: dict[str, Any] = _instances.normalise([{"name": "a", "model": "/srv/a", **keys}])[0]
    return one


def read_value(text: str) -> str:
    """As supervisor's options.py reads a value: configparser with both signs of comments, then % expressions."""
    parser = configparser.RawConfigParser(inline_comment_prefixes=(";", "#"), strict=False)
    parser.read_string(f"[program:a]\nvalue={text}\n")
    return parser.get("program:a", "value") % {"program_name": "a", "here": "/etc"}


def read_environment(text: str) -> dict[str, str]:
    """As supervisor's datatypes.dict_of_key_value_pairs does."""
    lexer = shlex.shlex(read_value(text))
    lexer.wordchars += "/.+-():"
    tokens = list(lexer)
    return {tokens[at]: tokens[at + 2].strip("'\"") for at in range(0, len(tokens), 4)}


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"A": "1", "B": "two words"},
        {"CUDA_VISIBLE_DEVICES": "0,1", "C": "x=y,z"},
        {"D": "100%", "E": "%(here)s"},
        {"F": 'say "yes" now', "G": "it's"},
        {"H": "a;b#c", "I": "back\\slash"},
        {"J": ""},
        {"K": "übung"},
    ],
)
def test_an_environment_is_read_back_as_it_was(variables: dict[str, str]) -> None:
    assert read_environment(_supervisor.environment(variables)) == variables


@pytest.mark.parametrize("value", ["a\nb", "a ;b", "a\t# b", "'quoted'", '"', "both ' and \" here", "\x00"])
def test_what_supervisor_cannot_hold_is_refused_by_name(value: str) -> None:
    with pytest.raises(ValueError, match="NAME"):
        _supervisor.environment({"NAME": value})


@given(some.dictionaries(some.from_regex(r"[A-Z_][A-Z0-9_]{0,8}", fullmatch=True), some.text(max_size=20), max_size=4))
def test_any_environment_is_refused_or_read_back(variables: dict[str, str]) -> None:
    try:
        written = _supervisor.environment(variables)
    except ValueError:
        return
    assert read_environment(written) == variables


@given(some.lists(some.text(min_size=1, max_size=20), min_size=1, max_size=5))
def test_any_command_is_refused_or_read_back(words: list[str]) -> None:
    try:
        written = _supervisor.command(words)
    except ValueError:
        return
    assert shlex.split(read_value(written)) == words


@pytest.mark.parametrize(("given_", "said"), [("50M", "50MB"), ("1G", "1GB"), ("2T", "2048GB"), ("4096", "4096"),
                                              ("512K", "512KB")])  # fmt: skip
def test_sizes(given_: str, said: str) -> None:
    assert _supervisor.size(given_) == said


def test_a_size_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="50 MB"):
        _supervisor.size("50 MB")


def test_the_runner_is_told_what_it_can_enforce() -> None:
    limits = {"files": 65536, "memlock": "2G", "oom_score_adjust": -500, "memory": None}
    words = _supervisor.limit_options(limits)
    assert words == ["--limit", "files=65536", "--limit", "memlock=2147483648", "--oom-score-adjust=-500"]
    assert _supervisor.limit_options({"memlock": "infinity"}) == ["--limit", "memlock=-1"]


def test_a_program_runs_the_server_by_the_runner_and_holds_no_secret() -> None:
    program = _supervisor.program(instance(api_key="S3CR3T-KEY", env={"TOKEN": "S3CR3T-TOKEN"}, gpus=[0, 1]), OPTIONS)
    words = shlex.split(read_value(program["command"]))
    assert words[:3] == ["/usr/local/bin/vllm-keeper", "run", "a"]
    assert words[words.index("--") + 1 :] == ["/opt/vllm/current/bin/vllm", "serve", "--config", "/etc/vllm/a.yaml"]
    environment = read_environment(program["environment"])
    assert environment["PATH"] == "/opt/vllm/current/bin:/opt/vllm/current/cuda/bin:/usr/bin:/bin"
    assert environment["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert "S3CR3T" not in str(program)


def test_each_time_to_stop_is_longer_than_what_happens_within() -> None:
    a, b = instance(drain_timeout=60), instance(drain_timeout=300)
    # the runner's: drain and 30 s (STOP_MARGIN in vllm_keeper/verbs/run.py)
    assert _supervisor.stop_seconds(a) > 60 + 30
    assert _supervisor.stop_seconds(b) > 300 + 30
    # the daemon stops one program after the other
    assert _supervisor.daemon_stop_seconds([a, b]) > _supervisor.stop_seconds(a) + _supervisor.stop_seconds(b)


@pytest.mark.parametrize("source", [_supervisor.DISTRIBUTION, _supervisor.PYPI])
def test_the_daemon_s_files_restart_no_instance(source: str) -> None:
    for file in _supervisor.daemon_files([instance()], source, "/opt/supervisor"):
        assert set(file.get("owes", [])) <= {"systemd"}


def test_the_daemon_of_pypi_goes_only_when_no_program_is_left() -> None:
    files = {file["path"]: file for file in _supervisor.daemon_files([], _supervisor.PYPI, "/opt/supervisor")}
    script = files["/etc/systemd/system/supervisor.service"]["before_remove"][-1]
    assert script.startswith("{ ls /etc/supervisor/conf.d/*.conf || {")
    # or the host would be taken for one that systemd runs something of ours on
    assert files["/etc/systemd/system/supervisor.service"]["before_remove"][0] != "systemctl"
