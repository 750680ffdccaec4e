# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What supervisor's configuration wants said its way (private to this collection). Pure.

Source: supervisor 4.2.5 and 4.3.0 (options.py, datatypes.py, process.py). A file is read by configparser, which takes a
blank and `;` or `#` for the beginning of a comment, also between quotes; then `%` expressions are expanded; then a
command is split by shlex, and the environment by a lexer of supervisor's own that knows quotes and no escapes.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

# Seconds of a stop beyond what a unit is given for it. The runner ends the server by itself within that; SIGKILL by
# supervisor is for a runner that hangs.
STOP_SLACK = 30
# A runner that cannot even begin (a broken keeper) is gone within this time, also on a busy host.
START_SECONDS = 5
# What a daemon with nothing left to stop takes to end.
DAEMON_SLACK = 30
DISTRIBUTION, PYPI = "distribution", "pypi"
CONFIG = "/etc/supervisor/steadfast.conf"
PROGRAMS = "/etc/supervisor/conf.d"
UNIT = "supervisor.service"
LOGS = "/var/log/vllm"


def environment(variables: Mapping[str, str]) -> str:
    """The value of `environment=`. Raises ValueError for what it cannot hold."""
    return ",".join(f"{name}={_value(name, text)}" for name, text in variables.items())


def _value(name: str, text: str) -> str:
    _on_one_line(text, f"the variable {name}")
    quote = "'" if '"' in text else '"'
    # Quotes at either end would be taken off, and there is no escape for the one that quotes.
    if quote in text or text.strip("'\"") != text:
        raise ValueError(f"supervisor: the variable {name} cannot be written: its value {text!r} has quotes")
    return f"{quote}{text.replace('%', '%%')}{quote}"


def command(words: Sequence[str]) -> str:
    """The value of `command=`. Raises ValueError for what it cannot hold."""
    for word in words:
        _on_one_line(word, "a command")
    return " ".join(map(shlex.quote, words)).replace("%", "%%")


def _on_one_line(text: str, what: str) -> None:
    if not text.isprintable() or re.search(r"\s[;#]", text):
        raise ValueError(f"supervisor: {what} cannot hold {text!r}: no line break, and no `;` or `#` after a blank")


def size(text: str) -> str:
    """50M as supervisor says it."""
    found = re.fullmatch(r"([0-9]+)([KMGT]?)", text)
    if not found:
        raise ValueError(f"{text!r} is not a size")
    if found[2] == "T":
        return f"{int(found[1]) * 1024}GB"
    return found[1] + (f"{found[2]}B" if found[2] else "")


def limit_options(limits: Mapping[str, Any]) -> list[str]:
    """The limits that `vllm-keeper run` sets. The others are refused by the preflight."""
    words = []
    if limits.get("files") is not None:
        words += ["--limit", f"files={limits['files']}"]
    if limits.get("memlock") is not None:
        words += ["--limit", f"memlock={_bytes(str(limits['memlock']))}"]
    if limits.get("oom_score_adjust") is not None:
        # With an equals sign: a negative number is no option.
        words.append(f"--oom-score-adjust={limits['oom_score_adjust']}")
    return words


def _bytes(text: str) -> int:
    if text == "infinity":
        return -1
    units = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    number = text.rstrip("KMGT")
    return int(number) * units[text[len(number) :]]


def stop_seconds(instance: Mapping[str, Any]) -> int:
    """How long supervisor waits for the end of a program that it stops."""
    return int(instance["timeouts"]["unit_stop"]) + STOP_SLACK


def daemon_stop_seconds(instances: Sequence[Mapping[str, Any]]) -> int:
    """How long the daemon may take to end: it stops one program after the other."""
    return sum(map(stop_seconds, instances)) + DAEMON_SLACK


def search_path(options: Mapping[str, Any]) -> str:
    """PATH of a server: its release's programs, the release's CUDA compiler where it has one, and the host's."""
    release = options["release"]
    return f"{release}/bin:{release}/cuda/bin:{options['path']}"


def program(instance: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The values of an instance's program section. Raises ValueError for what cannot be said there.

    options: keeper, user, group, home, release, path, as role service has them.
    """
    runner = [options["keeper"], "run", instance["name"], "--user", options["user"], "--group", options["group"]]
    server = [f"{options['release']}/bin/vllm", "serve", "--config", instance["config_file"]]
    return {
        "command": command([*runner, *limit_options(instance["limits"]), "--", *server]),
        "environment": environment(
            {
                **instance["environment"],
                "PATH": search_path(options),
                "TORCHINDUCTOR_CACHE_DIR": f"{options['home']}/.cache/torchinductor",
            }
        ),
        "start_seconds": START_SECONDS,
        "stop_seconds": stop_seconds(instance),
        "log": f"{LOGS}/{instance['name']}.log",
        "log_size": size(instance["logs"]["size"]),
        "log_count": instance["logs"]["count"],
    }


def control(source: str, root: str) -> list[str]:
    """supervisorctl with its configuration; [] for the one that is found by its name."""
    return [f"{root}/current/bin/supervisorctl", "-c", CONFIG] if source == PYPI else []


def daemon_files(instances: Sequence[Mapping[str, Any]], source: str, root: str) -> list[dict[str, Any]]:
    """What the daemon itself needs beside its programs, as managed_files takes it."""
    daemon = {"stop_seconds": daemon_stop_seconds(instances), "root": root, "config": CONFIG}
    if source == DISTRIBUTION:
        folder = f"/etc/systemd/system/{UNIT}.d"
        return [
            {"path": folder, "state": "directory"},
            {
                "path": f"{folder}/steadfast.conf",
                "template": "supervisor_dropin.conf.j2",
                "vars": {"daemon": daemon},
                "owes": ["systemd"],
            },
        ]
    # With programs left, which may be somebody else's or those of Debian's daemon to come, it goes on.
    ending = f"ls {PROGRAMS}/*.conf || {{ test -d /run/systemd/system && systemctl disable --now {UNIT}; }}"
    return [
        {"path": "/etc/supervisor", "state": "directory"},
        {"path": PROGRAMS, "state": "directory"},
        {"path": "/var/log/supervisor", "state": "directory"},
        {"path": CONFIG, "template": "supervisord.conf.j2"},
        {
            "path": f"/etc/systemd/system/{UNIT}",
            "template": "supervisor.service.j2",
            "vars": {"daemon": daemon},
            "owes": ["systemd"],
            "before_remove": ["/bin/sh", "-c", f"{{ {ending}; }} >/dev/null 2>&1 || true"],
        },
        {
            "path": "/usr/local/bin/supervisorctl",
            "template": "supervisorctl.j2",
            "vars": {"control": control(source, root)},
            "mode": "0755",
        },
    ]
