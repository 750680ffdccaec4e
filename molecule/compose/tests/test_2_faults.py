# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The faults that differ most where Docker restarts and nobody asks the keeper. All of them: make faults."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lab import faults


@pytest.mark.parametrize("fault", ["kill_engine", "bad_argument"])
def test_a_fault_is_survived(subject: faults.Subject, fault: str, measured: Callable[[str], None]) -> None:
    seen = faults.suffer(subject, fault)
    measured(f"{fault} under compose: {seen.seconds:.0f} s {seen.note}")
    subject.quiet()


def test_what_docker_restarted_is_in_the_keepers_history(subject: faults.Subject) -> None:
    runs = subject.status()["starts"]
    assert [run["end"] for run in runs if run["end"] == "failed"], runs


def test_a_stop_by_dockers_own_command_is_respected(subject: faults.Subject) -> None:
    subject.on(f"docker stop {subject.name}", timeout=120)
    assert subject.status()["verdict"] == "stopped"
    assert "stopped on purpose" in subject.keeper("check", subject.name)
    assert not subject.processes()
