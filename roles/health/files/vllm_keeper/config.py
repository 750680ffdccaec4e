# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The configuration of one instance, `/etc/vllm-keeper/<name>.json`: read, checked, and refused with every reason."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from vllm_keeper import aws_settings, repair
from vllm_keeper.signals import gpu as gpus
from vllm_keeper.signals import host as hosts
from vllm_keeper.watch import fleet as fleets
from vllm_keeper.watch import settings as watching

DEFAULT_DIRECTORY = Path("/etc/vllm-keeper")
NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.@-]{0,99}$")
SUFFIX = ".json"
MANAGERS = ("systemd", "supervisor", "compose", "tmux", "screen")
PARTS = ("gate", "check", "watch", "canary", "gpu", "host", "ladder", "fleet", "aws")
READY_CHECKS = ("completion", "health")


class ConfigError(Exception):
    """All problems of one file, one a line, each with its place."""


@dataclass(frozen=True)
class GateSettings:
    back_off: tuple[float, ...] = (0, 0, 10, 30, 60, 120, 300)
    window: float = 3600
    budget: int = 10
    jitter: float = 0.1
    stable_after: float = 300


@dataclass(frozen=True)
class CheckSettings:
    tries: int = 3
    delay: float = 5
    timeout: float = 10


@dataclass(frozen=True)
class Instance:
    name: str
    unit: str
    base_url: str
    manager: str = "systemd"
    health_path: str = "/health"
    ready_check: str = "completion"
    env_file: str = ""
    config_file: str = ""
    model_path: str = ""
    log_file: str = ""  # of managers that write one
    release: str = "/opt/vllm/current"  # the link to the environment that runs it
    control: tuple[str, ...] = ()  # the manager's command, where it is not the usual one
    start_timeout: float = 600
    drain_timeout: float = 60
    gate: GateSettings = field(default_factory=GateSettings)
    check: CheckSettings = field(default_factory=CheckSettings)
    watch: watching.WatchSettings = field(default_factory=watching.WatchSettings)
    gpu: gpus.Settings = field(default_factory=lambda: gpus.Settings(enabled=False))
    host: hosts.Settings = field(default_factory=hosts.Settings)
    ladder: repair.Settings = field(default_factory=repair.Settings)
    fleet: fleets.FleetSettings = field(default_factory=fleets.FleetSettings)
    aws: aws_settings.Settings = field(default_factory=aws_settings.Settings)

    @property
    def port(self) -> int:
        return urlsplit(self.base_url).port or 80


def names(directory: Path) -> list[str]:
    """Every configured instance. A missing directory is a host without instances, not an error."""
    try:
        found = (name[: -len(SUFFIX)] for name in os.listdir(directory) if name.endswith(SUFFIX))
        return sorted(name for name in found if NAME.match(name))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError(f"{directory}: cannot be listed ({error.strerror or error}); run as root") from error


def load(directory: Path, name: str) -> Instance:
    if not NAME.match(name):
        raise ConfigError(f"{name!r} is no instance name: letters, digits, '.', '_', '@' and '-' only")
    path = directory / (name + SUFFIX)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        known = ", ".join(names(directory)) or "none"
        raise ConfigError(f"{path}: no such instance; configured here: {known}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from error
    try:
        data = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{path}: is not JSON ({error}); run site.yml to write it again") from error
    instance, problems = parse(data, name)
    if problems or instance is None:
        raise ConfigError("\n".join(f"{path}: {problem}" for problem in problems))
    return instance


class Reader:
    """Takes keys out of one mapping and collects what is wrong with them."""

    def __init__(self, data: dict[str, Any], place: str, problems: list[str]) -> None:
        self.data, self.place, self.problems, self.known = data, place, problems, set[str]()

    def get(self, key: str, default: Any) -> Any:
        self.known.add(key)
        value = self.data.get(key)
        return default if value is None else value

    def bad(self, key: str, value: object, why: str) -> None:
        self.problems.append(f"{self.place}{key}: {value!r} {why}")

    def text(self, key: str, default: str | None) -> str:
        value = self.get(key, default)
        if value is None:
            self.problems.append(f"{self.place}{key}: is missing")
            return ""
        if not isinstance(value, str):
            self.bad(key, value, "must be text")
            return ""
        return value

    def choice(self, key: str, default: str, allowed: Iterable[str]) -> str:
        value = self.text(key, default)
        if value not in allowed:
            self.bad(key, value, f"must be one of {', '.join(allowed)}")
        return value

    def path(self, key: str, default: str) -> str:
        value = self.text(key, default)
        if value and not value.startswith("/"):
            self.bad(key, value, "must be an absolute path")
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self.get(key, default)
        if not isinstance(value, bool):
            self.bad(key, value, "must be true or false")
            return default
        return value

    def number(self, key: str, default: float, low: float, high: float) -> float:
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            self.bad(key, value, "must be a number")
            return default
        if not low <= value <= high:
            self.bad(key, value, f"must be between {low:g} and {high:g}")
        return float(value)

    def count(self, key: str, default: int, low: int, high: int) -> int:
        value = self.number(key, default, low, high)
        if value != int(value):
            self.bad(key, value, "must be a whole number")
        return int(value)

    def mapping(self, key: str) -> Reader:
        value = self.get(key, {})
        if not isinstance(value, dict):
            self.bad(key, value, "must be a mapping")
            value = {}
        return Reader(value, f"{self.place}{key}.", self.problems)

    def refuse_unknown(self) -> None:
        for key in sorted(set(map(str, self.data)) - self.known):
            near = difflib.get_close_matches(key, self.known, n=1)
            hint = f", did you mean {near[0]}?" if near else f"; known are {', '.join(sorted(self.known))}"
            self.problems.append(f"{self.place}{key}: unknown key{hint}")


def parse(data: object, name: str) -> tuple[Instance | None, list[str]]:
    """Pure: what the file says, or every reason why it cannot be used."""
    problems: list[str] = []
    if not isinstance(data, dict):
        return None, [f"must be a mapping, not {type(data).__name__}"]
    top = Reader(data, "", problems)
    said = top.text("name", name)
    if said != name:
        top.bad("name", said, f"must be {name!r}, as the file is called")
    parts = {key: top.mapping(key) for key in PARTS}
    gate, check = parts["gate"], parts["check"]
    defaults, check_defaults = GateSettings(), CheckSettings()
    instance = Instance(
        name=name,
        manager=top.choice("manager", "systemd", MANAGERS),
        unit=top.text("unit", f"{name}.service"),
        base_url=_base_url(top),
        health_path=top.path("health_path", "/health"),
        ready_check=top.choice("ready_check", "completion", READY_CHECKS),
        env_file=top.path("env_file", ""),
        config_file=top.path("config_file", f"/etc/vllm/{name}.yaml"),
        model_path=top.path("model_path", ""),
        log_file=top.path("log_file", f"/var/log/vllm/{name}.log"),
        release=top.path("release", "/opt/vllm/current"),
        control=_words(top, "control"),
        start_timeout=top.number("start_timeout", 600, 1, 86400),
        drain_timeout=top.number("drain_timeout", 60, 0, 86400),
        gate=GateSettings(
            back_off=_back_off(gate),
            window=gate.number("window", defaults.window, 1, 30 * 86400),
            budget=gate.count("budget", defaults.budget, 1, 100),
            jitter=gate.number("jitter", defaults.jitter, 0, 1),
            stable_after=gate.number("stable_after", defaults.stable_after, 0, 86400),
        ),
        check=CheckSettings(
            tries=check.count("tries", check_defaults.tries, 1, 100),
            delay=check.number("delay", check_defaults.delay, 0, 3600),
            timeout=check.number("timeout", check_defaults.timeout, 0.1, 600),
        ),
        watch=watching.read(parts["watch"], parts["canary"]),
        gpu=gpus.read(parts["gpu"]) if parts["gpu"].data else gpus.Settings(enabled=False),
        host=hosts.read(parts["host"]),
        ladder=repair.read(parts["ladder"]),
        fleet=fleets.read(parts["fleet"]),
        aws=aws_settings.read(parts["aws"]),
    )
    if not re.match(r"^[A-Za-z0-9:_.@\\-]+$", instance.unit):
        top.bad("unit", instance.unit, "is no unit name")
    for reader in (top, *parts.values()):
        reader.refuse_unknown()
    return (None, problems) if problems else (instance, [])


def _base_url(top: Reader) -> str:
    value = top.text("base_url", None)
    if not value:
        return value
    try:
        parts = urlsplit(value)
        good = parts.scheme == "http" and bool(parts.hostname) and (parts.port is None or parts.port > 0)
        good = good and parts.path in ("", "/") and not parts.query and not parts.username
    except ValueError:
        good = False
    if not good:
        top.bad(
            "base_url", value, "must look like http://127.0.0.1:8000 (the keeper talks to its own host, without TLS)"
        )
    return value.rstrip("/")


def _words(top: Reader, key: str) -> tuple[str, ...]:
    value = top.get(key, [])
    if not isinstance(value, list) or not all(isinstance(word, str) and word for word in value):
        top.bad(key, value, "must be a list of words, such as [supervisorctl]")
        return ()
    return tuple(value)


def _back_off(gate: Reader) -> tuple[float, ...]:
    value = gate.get("back_off", list(GateSettings().back_off))
    if not isinstance(value, list) or not value:
        gate.bad("back_off", value, "must be a list of seconds with at least one entry")
        return GateSettings().back_off
    for step in value:
        if isinstance(step, bool) or not isinstance(step, (int, float)) or not 0 <= step <= 86400:
            gate.bad("back_off", step, "must be seconds between 0 and 86400")
            return GateSettings().back_off
    return tuple(float(step) for step in value)


def read_env_file(path: str) -> dict[str, str]:
    """A systemd EnvironmentFile: enough of its grammar for what the role writes (quotes, backslashes, comments)."""
    if not path:
        return {}
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return {}
    found: dict[str, str] = {}
    for line in re.sub(r"\\\n", "", text).splitlines():
        key, separator, value = line.strip().partition("=")
        if separator and re.match(r"^[A-Za-z_][A-Za-z0-9_]*$", key.strip()):
            found[key.strip()] = _unquote(value.strip())
    return found


def _unquote(value: str) -> str:
    if len(value) >= 2 and value[0] == value[-1] == "'":
        return value[1:-1]
    if len(value) >= 2 and value[0] == value[-1] == '"':
        return re.sub(r"\\([\"\\`$])", r"\1", value[1:-1])
    return re.sub(r"\\(.)", r"\1", value)


def fingerprint(files: Iterable[str], facts: Iterable[str] = ()) -> str:
    """What a start depends on, as one value: a changed value means that a parked instance deserves another try."""
    digest = hashlib.sha256()
    for fact in facts:
        digest.update(b"fact\0" + fact.encode("utf-8", "surrogateescape") + b"\0")
    for name in files:
        digest.update(b"file\0" + name.encode("utf-8", "surrogateescape") + b"\0")
        try:
            digest.update(hashlib.sha256(Path(name).read_bytes()).digest())
        except OSError:
            digest.update(b"absent")
    return digest.hexdigest()[:16]
