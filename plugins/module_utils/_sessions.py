# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a session of tmux or screen runs: the words of start_server.sh (private to this collection). Pure."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from ansible_collections.steadfast.vllm.plugins.module_utils._supervisor import limit_options, search_path

PROGRAMS = ("tmux", "screen")
SCRIPTS = "/etc/vllm"
LOGS = "/var/log/vllm"
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def folder(program: str, name: str) -> str:
    """Where an instance's script lies: by program, so that changing the program ends the old one's session."""
    return f"{SCRIPTS}/{program}/{name}"


def script(instance: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The values of an instance's start_server.sh, quoted for a shell.

    options: keeper, user, group, home, release, path, delay, as role service has them.
    """
    name = instance["name"]
    variables = {
        **instance["environment"],
        "PATH": search_path(options),
        "TORCHINDUCTOR_CACHE_DIR": f"{options['home']}/.cache/torchinductor",
    }
    logs = instance["logs"]
    runner = [
        [options["keeper"], "run", name],
        ["--forever", "--apart", "--delay", str(options["delay"])],
        ["--user", options["user"], "--group", options["group"]],
        limit_options(instance["limits"]),
        ["--log", f"{LOGS}/{name}.log", "--log-size", str(size(logs["size"])), "--log-count", str(logs["count"])],
        ["--", f"{options['release']}/bin/vllm", "serve", "--config", instance["config_file"]],
    ]
    return {
        "variables": [f"{key}={shlex.quote(value)}" for key, value in sorted(variables.items())],
        "runner": [" ".join(map(shlex.quote, words)) for words in runner if words],
    }


def size(text: str) -> int:
    """50M in bytes."""
    number = text.rstrip("KMGT")
    return int(number) * UNITS[text[len(number) :]]
