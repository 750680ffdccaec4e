# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Supervisor: one program an instance, called as the instance; the program is `vllm-keeper run`."""

from __future__ import annotations

from vllm_keeper.managers.base import ASK, Completed, ManagerError
from vllm_keeper.managers.supervised import Known, Supervised

UP = ("RUNNING", "STARTING", "BACKOFF", "STOPPING")
UNKNOWN = 4  # supervisorctl's exit status for a program that it does not know


class Supervisor(Supervised):
    def known(self) -> Known:
        done = self._control("status", self.instance.name)
        return parse_status(done, self.instance.name)

    def start(self, wait: float = 0) -> Completed:
        ended = self.ended()
        done = self._control("start", self.instance.name)
        if done.code and "already started" not in done.out:
            return done
        return self.await_ready(wait, ended) if wait else Completed(0, done.out, done.err)

    def stop(self, wait: float = 0) -> Completed:
        self._control("stop", self.instance.name, within=wait or ASK)
        return self.await_gone(wait) if wait else Completed(0, "", "")

    def restart(self, wait: float = 0) -> Completed:
        self._control("stop", self.instance.name, within=wait or ASK)
        return self.start(wait)

    def enable(self, on: bool) -> Completed:
        # A program that is configured starts with supervisor; the role makes supervisor itself start on boot.
        return Completed(0, "", "")

    def files(self) -> list[str]:
        return [f"/etc/supervisor/conf.d/{self.instance.name}.conf"]

    def _control(self, *words: str, within: float = ASK) -> Completed:
        return self._run([*(self.instance.control or ("supervisorctl",)), *words], within)


def parse_status(done: Completed, name: str) -> Known:
    """What `supervisorctl status NAME` says. Raises ManagerError when it could not ask."""
    words = done.out.split()
    if len(words) < 2 or words[0].rstrip(":") != name:
        raise ManagerError(f"supervisorctl status {name}: {(done.err or done.out).strip() or f'exit code {done.code}'}")
    if "no such process" in done.out:
        return Known(False, False, f"supervisor knows no program {name}", enabled=False)
    return Known(True, words[1] in UP, " ".join(words[1:]), failed=words[1] in ("FATAL", "EXITED"))
