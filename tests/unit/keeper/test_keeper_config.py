# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Configuration: complete, or refused with every reason and its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as s
from vllm_keeper import config

GOOD: dict[str, Any] = {"name": "q", "base_url": "http://127.0.0.1:8000"}


def test_the_smallest_file_gets_the_guides_values() -> None:
    instance, problems = config.parse(GOOD, "q")
    assert problems == [] and instance is not None
    assert (instance.unit, instance.config_file, instance.port) == ("q.service", "/etc/vllm/q.yaml", 8000)
    assert (instance.check.tries, instance.check.delay, instance.gate.budget) == (3, 5, 10)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prot": 1}, "prot: unknown key"),
        ({"gate": {"bugdet": 3}}, "gate.bugdet: unknown key, did you mean budget?"),
        ({"base_url": None}, "base_url: is missing"),
        ({"base_url": "https://127.0.0.1:8000"}, "without TLS"),
        ({"base_url": "http://127.0.0.1:99999"}, "must look like"),
        ({"name": "other"}, "name: 'other' must be 'q'"),
        ({"manager": "upstart"}, "manager: 'upstart' must be one of systemd"),
        ({"ready_check": "ping"}, "must be one of completion, health"),
        ({"start_timeout": "soon"}, "start_timeout: 'soon' must be a number"),
        ({"start_timeout": True}, "start_timeout: True must be a number"),
        ({"start_timeout": float("inf")}, "must be a number"),
        ({"check": {"tries": 0}}, "check.tries: 0 must be between 1 and 100"),
        ({"check": {"tries": 1.5}}, "check.tries: 1.5 must be a whole number"),
        ({"check": []}, "check: [] must be a mapping"),
        ({"gate": {"back_off": []}}, "gate.back_off: [] must be a list"),
        ({"gate": {"back_off": [0, -1]}}, "gate.back_off: -1 must be seconds"),
        ({"model_path": "models/x"}, "must be an absolute path"),
        ({"unit": "a b"}, "is no unit name"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(change: dict[str, Any], said: str) -> None:
    instance, problems = config.parse({**GOOD, **change}, "q")
    assert instance is None
    assert any(said in problem for problem in problems), problems


def test_all_problems_at_once(tmp_path: Path) -> None:
    (tmp_path / "q.json").write_text(json.dumps({**GOOD, "prot": 1, "check": {"tries": 0}}))
    with pytest.raises(config.ConfigError) as caught:
        config.load(tmp_path, "q")
    assert len(str(caught.value).splitlines()) == 2
    assert str(tmp_path / "q.json") in str(caught.value)


@pytest.mark.parametrize(("text", "said"), [("{", "is not JSON"), ("[]", "must be a mapping"), ("\xff", "is not JSON")])
def test_a_broken_file_is_said(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "q.json").write_text(text)
    with pytest.raises(config.ConfigError, match=said):
        config.load(tmp_path, "q")


def test_a_missing_instance_lists_those_there_are(tmp_path: Path) -> None:
    (tmp_path / "qwen.json").write_text("{}")
    with pytest.raises(config.ConfigError, match="configured here: qwen"):
        config.load(tmp_path, "q")


def test_a_name_cannot_leave_the_directory(tmp_path: Path) -> None:
    with pytest.raises(config.ConfigError, match="no instance name"):
        config.load(tmp_path, "../../etc/passwd")


values = s.recursive(
    s.none() | s.booleans() | s.integers() | s.floats() | s.text(max_size=5),
    lambda inner: s.lists(inner, max_size=3) | s.dictionaries(s.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
keys = s.sampled_from(["name", "unit", "base_url", "gate", "check", "start_timeout", "model_path", "x"])


@given(s.dictionaries(keys, values) | values)
def test_any_content_gives_an_instance_or_reasons_never_a_crash(data: object) -> None:
    instance, problems = config.parse(data, "q")
    assert (instance is None) == bool(problems)


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("VLLM_API_KEY=abc", "abc"),
        ('VLLM_API_KEY="a \\"b\\" c"', 'a "b" c'),
        ("VLLM_API_KEY='a \\ b'", "a \\ b"),
        ("  VLLM_API_KEY = abc", "abc"),
        ("VLLM_API_KEY=a\\ b", "a b"),
        ("VLLM_API_KEY=a=b#c", "a=b#c"),
    ],
)
def test_environment_files_are_read_as_systemd_reads_them(tmp_path: Path, line: str, value: str) -> None:
    file = tmp_path / "q.env"
    file.write_text(f"# comment\n; comment\nnot a line\n{line}\n")
    assert config.read_env_file(str(file)) == {"VLLM_API_KEY": value}


def test_an_unreadable_environment_file_is_no_key() -> None:
    assert config.read_env_file("/nonexistent") == {}


def test_the_fingerprint_changes_with_content_presence_and_facts_only(tmp_path: Path) -> None:
    file = tmp_path / "q.yaml"
    file.write_text("port: 1")
    before = config.fingerprint([str(file)], ["/opt/vllm/releases/1/bin/vllm"])
    file.touch()
    assert config.fingerprint([str(file)], ["/opt/vllm/releases/1/bin/vllm"]) == before
    assert config.fingerprint([str(file)], ["/opt/vllm/releases/2/bin/vllm"]) != before
    file.write_text("port: 2")
    changed = config.fingerprint([str(file)], ["/opt/vllm/releases/1/bin/vllm"])
    assert changed != before
    file.unlink()
    assert config.fingerprint([str(file)], ["/opt/vllm/releases/1/bin/vllm"]) not in (before, changed)
