# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Asks AWS, through a process of its own with a deadline: boto3 is never loaded into the keeper.

The tool is roles/health/files/vllm_keeper_aws; it runs in the locked environment /opt/vllm-keeper/aws and answers with
one JSON object. An environment that is missing or broken costs an error here, never the keeper.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_keeper.aws_settings import Settings
from vllm_keeper.managers.base import Completed, Runner, run

TOOL = Path(__file__).resolve().parent.parent / "vllm_keeper_aws"
MEMORY = Path("/var/lib/vllm-keeper/aws")
GRACE = 5.0  # the tool keeps its deadline itself; this is for one that does not


class AwsError(Exception):
    """AWS could not be asked, or refused; says what to do."""


@dataclass(frozen=True)
class Aws:
    settings: Settings
    name: str  # of the instance
    port: int
    runner: Runner = run
    memory: Path = MEMORY
    tool: Path = TOOL

    def installed(self) -> bool:
        return Path(self.settings.python).exists()

    def deregister(self, wait: float = 0, dry_run: bool = False) -> dict[str, Any]:
        """Takes the instance out of its target groups; WAIT: seconds for what it serves to end."""
        arguments = ["--port", str(self.port), "--keep", str(self.settings.keep), *self._remember()]
        for group in self.settings.target_groups:
            arguments += ["--target-group", group]
        for address in self.settings.addresses:
            arguments += ["--address", address]
        return self._ask("deregister", arguments, dry_run, wait)

    def register(self, wait: float = 0, dry_run: bool = False) -> dict[str, Any]:
        """Puts back exactly what `deregister` took out; WAIT: seconds for it to become healthy."""
        return self._ask("register", self._remember(), dry_run, wait)

    def unhealthy(self, dry_run: bool = False) -> dict[str, Any]:
        """Tells the Auto Scaling Group to replace this host."""
        grace = [] if self.settings.respect_grace else ["--ignore-grace"]
        return self._ask("unhealthy", grace, dry_run)

    def fleet(self) -> dict[str, Any]:
        return self._ask("fleet", self._fleet())

    def claim(self, dry_run: bool = False) -> dict[str, Any]:
        """`granted` says whether this host may act now. Expires by itself, and is given back with `release`."""
        settings = self.settings
        more = ["--limit", str(settings.limit), "--settle", str(settings.settle)]
        return self._ask("claim", [*self._fleet(), *more], dry_run, settings.settle)

    def release(self, dry_run: bool = False) -> dict[str, Any]:
        return self._ask("release", [], dry_run)

    def _remember(self) -> list[str]:
        return ["--remember", str(self.memory / f"{self.name}.json")]

    def _fleet(self) -> list[str]:
        arguments = ["--expires", str(self.settings.claim_expires)]
        if self.settings.group:
            arguments += ["--group", self.settings.group]
        for group in self.settings.target_groups:
            arguments += ["--target-group", group]
        return arguments

    def _ask(self, verb: str, arguments: Sequence[str], dry_run: bool = False, wait: float = 0) -> dict[str, Any]:
        settings = self.settings
        deadline = settings.deadline + wait
        command = [settings.python, "-I", "-X", "pycache_prefix=/var/cache/vllm-keeper", str(self.tool), verb]
        command += [*arguments, "--deadline", f"{deadline:g}"]
        if wait and verb in ("deregister", "register"):
            command += ["--wait", f"{wait:g}"]
        for option, value in (
            ("--region", settings.region),
            ("--instance-id", settings.instance_id),
            ("--endpoint-url", settings.endpoint),
        ):
            command += [option, value] if value else []
        if dry_run:
            command.append("--dry-run")
        if not self.installed():
            raise AwsError(f"{settings.python}: is missing; set health_aws and run site.yml, which installs it")
        done = self.runner(command, deadline + GRACE)
        return _answer(verb, done)


def _answer(verb: str, done: Completed) -> dict[str, Any]:
    try:
        answer = json.loads(done.out.strip().splitlines()[-1])
        if not isinstance(answer, dict) or not isinstance(answer.get("ok"), bool):
            raise ValueError("no answer")
    except (ValueError, IndexError) as error:
        said = (done.err.strip() or done.out.strip() or f"exit code {done.code}").splitlines()[-1][:300]
        raise AwsError(f"{verb}: the tool for AWS gave no answer: {said}") from error
    if not answer["ok"]:
        raise AwsError(f"{verb}: {answer.get('error') or 'failed without a word'}")
    return answer
