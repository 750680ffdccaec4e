# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`make nemesis` with hosts that only remember: each step is done as its seed says, and a failure can be repeated."""

from __future__ import annotations

import pytest

from lab import nemesis

HOSTS = ("gpu1", "gpu2")


class Host:
    """A lab host that is whole, or says why it is not."""

    def __init__(self, host: str, ill: str = "") -> None:
        self.host, self.name, self.ill, self.calls = host, "q", ill, list[str]()

    def keeper(self, *words: str, check: bool = True) -> str:
        self.calls.append(" ".join(words))
        return ""

    def on(self, command: str, check: bool = True) -> str:
        self.calls.append(command)
        return "7"

    def pids(self, _what: str) -> list[str]:
        return ["7"]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nemesis.time, "sleep", lambda _seconds: None)
    monkeypatch.setattr(nemesis, "ill", lambda subject: subject.ill)


def test_a_host_that_is_not_whole_in_time_is_told_with_the_command_that_repeats_it(
    quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts, told = [Host("gpu1"), Host("gpu2")], list[str]()
    count = [0]

    def whole(_subjects: object, _within: float) -> float:
        count[0] += 1
        if count[0] == 4:  # the lab as it was found, then three steps
            raise TimeoutError("gpu2: no completion is answered")
        return 1.0

    monkeypatch.setattr(nemesis, "whole", whole)
    with pytest.raises(AssertionError, match=r"gpu2: no completion.*again: .*--seed 3 --steps 3 --from 3"):
        nemesis.run(hosts, 3, 15, say=told.append, start=40.0)  # type: ignore[arg-type]
    assert "each step has 125 s" in told[0]


def test_every_step_does_what_its_story_says(quick: None) -> None:
    hosts = [Host("gpu1"), Host("gpu2")]
    took = nemesis.run(hosts, 3, 4, say=lambda _text: None, start=40.0)  # type: ignore[arg-type]
    calls = [call for host in hosts for call in host.calls]
    steps = nemesis.story(3, 4, HOSTS)

    assert len(took) == 4
    assert calls.count("resume q") == 8
    assert calls.count("restart --no-wait q") == sum(len(step.restarted) for step in steps)
    assert sum(call.startswith("kill -") for call in calls) == sum(len(step.deeds) for step in steps)


def test_who_never_is_whole_runs_out_of_time(quick: None) -> None:
    with pytest.raises(TimeoutError, match="gpu2: stopped"):
        nemesis.whole([Host("gpu1"), Host("gpu2", "stopped: 7")], 0.01)  # type: ignore[list-item]
