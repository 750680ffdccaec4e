# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the host itself is short of: memory, the disks of model and logs, the clock. Told, never acted upon."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from vllm_keeper.config import Instance
from vllm_keeper.log import Log
from vllm_keeper.signals import Once, host

INTERVAL = 30.0
STATE, JOURNAL = "/var/lib/vllm-keeper", "/var/log"


class HostWatch:
    def __init__(self, log: Log, clock: Callable[[], float] = time.monotonic) -> None:
        self.log, self._clock = log, clock
        self._next = float("-inf")
        self._disks = host.Disks()
        self._before: host.Clock | None = None
        self._once = Once()
        self.found: Mapping[str, tuple[str, str]] = {}

    def look(self, instances: Sequence[Instance]) -> None:
        """Every half a minute, whenever it is called."""
        if self._clock() < self._next or not instances:
            return
        self._next = self._clock() + INTERVAL
        settings = instances[0].host
        written = {STATE, JOURNAL, *(str(Path(one.log_file).parent) for one in instances if one.log_file)}
        models = {one.model_path for one in instances if one.model_path}
        clock = host.clock()
        findings = [
            *host.judge_memory(host.memory(), settings),
            *host.judge_disks(self._disks.read(sorted(written | models), settings.disk_deadline), settings, written),
            *host.judge_clock(self._before, clock, settings),
        ]
        self._before = clock
        by_subject = host.by_subject(findings)
        for subject in {*by_subject, *self.found}:
            finding = by_subject.get(subject)
            text = "" if finding is None else f"{subject}: {finding.evidence}"
            if self._once.news(subject, text):
                advice = f"; {finding.advice}" if finding is not None and finding.advice else ""
                self.log.warning(text + advice if text else f"{subject}: well again")
        self.found = {subject: (finding.level, finding.evidence) for subject, finding in by_subject.items()}
