# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What `make nemesis` does to the lab's hosts, step by step, out of a seed. Pure."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

PARTS = ("api", "engine", "worker", "keeper")
SIGNALS = ("STOP", "KILL")
START = 40.0  # seconds: about what a start takes, and so when it is hurt


@dataclass(frozen=True)
class Deed:
    """AFTER so many seconds since the deed before."""

    after: float
    host: str
    part: str
    signal: str

    def __str__(self) -> str:
        return f"+{self.after:.1f} s {self.signal} {self.part} on {self.host}"


@dataclass(frozen=True)
class Step:
    """restarted: the hosts whose start is ordered first."""

    restarted: tuple[str, ...]
    deeds: tuple[Deed, ...]

    def __str__(self) -> str:
        ordered = f"restart {' and '.join(self.restarted)}, " if self.restarted else ""
        return ordered + ", ".join(map(str, self.deeds))


def story(seed: int, steps: int, hosts: Sequence[str]) -> list[Step]:
    """The same for the same seed, and a longer one begins like a shorter one."""
    dice = random.Random(seed)
    return [_step(dice, hosts) for _step_ in range(steps)]


def _step(dice: random.Random, hosts: Sequence[str]) -> Step:
    restarted = tuple(host for host in hosts if dice.random() < 0.4)
    count = dice.choice((1, 1, 2, 3))
    deeds = []
    for number in range(count):
        host = dice.choice(restarted or hosts)
        # The first one may come at any moment of the start, those after it at about the same time or a while later.
        longest = START if restarted and number == 0 else dice.choice((0.5, 10.0))
        deeds.append(Deed(round(dice.uniform(0, longest), 1), host, dice.choice(PARTS), dice.choice(SIGNALS)))
    return Step(restarted, tuple(deeds))
