# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One adapter class a process manager, all with the same verbs."""

from __future__ import annotations

import importlib
from typing import cast

from vllm_keeper.config import Instance
from vllm_keeper.managers.base import Manager, ManagerError, Observed, Runner, run

__all__ = ["Manager", "ManagerError", "Observed", "Runner", "make", "run"]

# Module and class; only the one that is used is loaded, since the gate stands in the way of every start.
ADAPTERS = {
    "systemd": ("systemd", "Systemd"),
    "supervisor": ("supervisor", "Supervisor"),
    "compose": ("compose", "Compose"),
    "tmux": ("sessions", "Tmux"),
    "screen": ("sessions", "Screen"),
}


def make(instance: Instance, runner: Runner = run) -> Manager:
    """The adapter of the instance's manager."""
    module, name = ADAPTERS[instance.manager]
    adapter = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    return cast(Manager, adapter(instance, runner))
