"""Every role: complete metadata, and argument specs that say exactly what defaults hold."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(folder for folder in (ROOT / "roles").iterdir() if (folder / "tasks").is_dir())


def name_of(role: Path) -> str:
    return role.name


def read(file: Path) -> Any:
    return yaml.safe_load(file.read_text()) if file.exists() else {}


def options(role: Path) -> dict[str, Any]:
    specs = read(role / "meta" / "argument_specs.yml")["argument_specs"]
    merged: dict[str, Any] = {}
    for point in specs.values():
        merged |= point.get("options") or {}
    return merged


def test_there_are_roles() -> None:
    assert {role.name for role in ROLES} >= {"uv", "vllm", "service", "health", "load_balancer"}


@pytest.mark.parametrize("role", ROLES, ids=name_of)
def test_defaults_and_argument_specs_have_the_same_keys(role: Path) -> None:
    # A required option has no default, by its nature.
    described = {key for key, option in options(role).items() if not option.get("required")}
    assert described == set(read(role / "defaults" / "main.yml") or {})


@pytest.mark.parametrize("role", ROLES, ids=name_of)
def test_defaults_and_argument_specs_agree_on_plain_values(role: Path) -> None:
    defaults = read(role / "defaults" / "main.yml") or {}
    wrong = {
        key: (option["default"], defaults[key])
        for key, option in options(role).items()
        if "default" in option and key in defaults and "{{" not in str(defaults[key])
        if option["default"] != defaults[key]
    }
    assert wrong == {}, "argument_specs, defaults"


@pytest.mark.parametrize("role", ROLES, ids=name_of)
def test_every_variable_is_described_and_has_the_roles_prefix(role: Path) -> None:
    for key, option in options(role).items():
        assert key.startswith(f"{role.name}_"), key
        assert option.get("description") and option.get("type"), f"{key} has no description or no type"
    internals = read(role / "vars" / "main.yml") or {}
    assert [key for key in internals if not re.match(rf"_?{role.name}_", key)] == []


@pytest.mark.parametrize("role", ROLES, ids=name_of)
def test_every_entry_point_is_described_and_has_tasks(role: Path) -> None:
    for point, spec in read(role / "meta" / "argument_specs.yml")["argument_specs"].items():
        assert spec.get("short_description") and spec.get("description"), point
        assert (role / "tasks" / f"{point}.yml").is_file(), f"no tasks/{point}.yml"


@pytest.mark.parametrize("role", ROLES, ids=name_of)
def test_metadata_is_complete(role: Path) -> None:
    info = read(role / "meta" / "main.yml")["galaxy_info"]
    runtime = read(ROOT / "meta" / "runtime.yml")["requires_ansible"].removeprefix(">=")
    assert info["license"] == "GPL-3.0-or-later"
    assert info["description"]
    assert runtime.startswith(str(info["min_ansible_version"]))
