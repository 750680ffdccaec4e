# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rungs of the ladder, its settings, and one repair as it is remembered. Imports nothing that judges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_keeper.clock import Moment

if TYPE_CHECKING:
    from vllm_keeper.config import Reader

NONE = "none"  # nothing is to be done
RESTART = "restart"
CLEAR = "clear"  # kill leftovers, wait for free GPU memory, then start
RESET_GPU = "reset_gpu"
REBOOT = "reboot"
REPLACE = "replace"  # the Auto Scaling Group is told that the host is unhealthy
PARK = "park"

LADDER = (RESTART, CLEAR, RESET_GPU, REBOOT, REPLACE, PARK)
# They reach beyond the one instance: opt-in, and remembered for the whole host.
HEAVY = (RESET_GPU, REBOOT, REPLACE)

# Outcomes of a repair.
BEGUN, DONE, FAILED = "begun", "done", "failed"


@dataclass(frozen=True)
class Repair:
    at: Moment
    rung: str
    cause: str  # what was wrong, for people
    outcome: str = BEGUN
    instance: str = ""  # for which it was done


@dataclass(frozen=True)
class Settings:
    reset_gpu: bool = False
    reboot: bool = False
    replace: bool = False
    restart_tries: int = 2  # failures in a row that a plain restart answers
    clear_tries: int = 3  # failures in a row after those that clearing answers
    reset_gpu_tries: int = 1  # for one instance, within `window`
    window: float = 21600
    budget: int = 3  # repairs of the opt-in rungs within `window`, on the whole host
    reboot_window: float = 86400  # never a second reboot of ours within it
    back_off: tuple[float, ...] = (30, 120, 300)  # between two repairs of the opt-in rungs
    jitter: float = 0.1
    spare_neighbours: bool = True  # no reboot and no replacement while other instances of the host serve
    memory_wait: float = 60  # how long `clear` waits for free GPU memory
    reset_wait: float = 30  # how long a reset waits for processes to leave the GPU
    # Units that hold the GPU open and stand aside for a reset; our own watcher reads it too.
    reset_stops: tuple[str, ...] = ("nvidia-persistenced", "vllm-keeper")
    dry_run: bool = False


# Shorter, a rung that did not help would be tried again before the failure after it could count against it.
SHORTEST_WINDOW = 3600.0
LONGEST_BACK_OFF = 300.0  # the gate holds a start back for no longer: the unit's time limit is derived from it


def read(reader: Reader) -> Settings:
    """The mapping `ladder` of an instance's configuration; its problems go to READER."""
    default = Settings()
    return Settings(
        reset_gpu=reader.flag("reset_gpu", default.reset_gpu),
        reboot=reader.flag("reboot", default.reboot),
        replace=reader.flag("replace", default.replace),
        restart_tries=reader.count("restart_tries", default.restart_tries, 0, 100),
        clear_tries=reader.count("clear_tries", default.clear_tries, 0, 100),
        reset_gpu_tries=reader.count("reset_gpu_tries", default.reset_gpu_tries, 1, 10),
        window=reader.number("window", default.window, SHORTEST_WINDOW, 30 * 86400),
        budget=reader.count("budget", default.budget, 0, 20),
        reboot_window=reader.number("reboot_window", default.reboot_window, SHORTEST_WINDOW, 365 * 86400),
        back_off=_back_off(reader, default.back_off),
        jitter=reader.number("jitter", default.jitter, 0, 1),
        spare_neighbours=reader.flag("spare_neighbours", default.spare_neighbours),
        memory_wait=reader.number("memory_wait", default.memory_wait, 0, LONGEST_BACK_OFF),
        reset_wait=reader.number("reset_wait", default.reset_wait, 0, LONGEST_BACK_OFF),
        reset_stops=_units(reader, default.reset_stops),
        dry_run=reader.flag("dry_run", default.dry_run),
    )


def _back_off(reader: Reader, default: tuple[float, ...]) -> tuple[float, ...]:
    value = reader.get("back_off", list(default))
    good = isinstance(value, list) and bool(value)
    if good:
        good = all(
            isinstance(step, (int, float)) and not isinstance(step, bool) and 0 <= step <= LONGEST_BACK_OFF
            for step in value
        )
    if not good:
        reader.bad("back_off", value, f"must be a list of seconds, each between 0 and {LONGEST_BACK_OFF:g}")
        return default
    return tuple(float(step) for step in value)


def _units(reader: Reader, default: tuple[str, ...]) -> tuple[str, ...]:
    value = reader.get("reset_stops", list(default))
    # A leading dash would be an option of systemctl.
    if not isinstance(value, list) or not all(
        isinstance(unit, str) and unit.strip("-") == unit != "" for unit in value
    ):
        reader.bad("reset_stops", value, "must be a list of units, such as [nvidia-persistenced]")
        return default
    return tuple(value)
