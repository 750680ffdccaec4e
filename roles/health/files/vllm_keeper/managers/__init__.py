# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One adapter class a process manager, all with the same verbs."""

from __future__ import annotations

from vllm_keeper.config import Instance
from vllm_keeper.managers.base import Manager, ManagerError, Observed, Runner, run
from vllm_keeper.managers.systemd import Systemd

__all__ = ["Manager", "ManagerError", "Observed", "Runner", "make", "run"]

ADAPTERS: dict[str, type[Manager]] = {"systemd": Systemd}


def make(instance: Instance, runner: Runner = run) -> Manager:
    return ADAPTERS[instance.manager](instance, runner)
