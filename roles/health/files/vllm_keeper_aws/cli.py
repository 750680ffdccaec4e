# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line: which verb, for whom, until when. Everything that happens becomes one JSON object."""

from __future__ import annotations

import argparse
import json
import signal
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from vllm_keeper_aws import group, targets
from vllm_keeper_aws.cloud import Cloud
from vllm_keeper_aws.errors import DeadlineError, ToolError
from vllm_keeper_aws.fleet import Fleet
from vllm_keeper_aws.identity import Identity
from vllm_keeper_aws.memory import Memory


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        tell({"ok": False, "kind": "usage", "error": message})
        raise SystemExit(2)


def positive(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 86400:
        raise argparse.ArgumentTypeError(f"{text} must be seconds between 0 and 86400")
    return value


def parser() -> argparse.ArgumentParser:
    common = _Parser(add_help=False)
    common.add_argument("--region", default="", help="default: from the instance metadata")
    common.add_argument("--instance-id", default="", help="default: from the instance metadata")
    common.add_argument("--endpoint-url", default="", help="instead of AWS's own")
    common.add_argument("--deadline", type=positive, default=30.0, help="seconds after which all is given up")
    common.add_argument("--dry-run", action="store_true", help="say what would be done, and change nothing")
    fleet = _Parser(add_help=False)
    fleet.add_argument("--group", default="", help="Auto Scaling Group; default: the one that the host is in")
    fleet.add_argument("--target-group", action="append", default=[], help="name or ARN; may be repeated")
    fleet.add_argument("--expires", type=positive, default=900.0, help="seconds that a claim holds")

    top = _Parser(prog="vllm_keeper_aws", description="What the keeper asks of AWS. One JSON object on stdout.")
    verbs = top.add_subparsers(dest="verb", required=True)

    one = verbs.add_parser("deregister", parents=[common], help="take this host's port out of target groups")
    one.add_argument("--target-group", action="append", required=True, help="name or ARN; may be repeated")
    one.add_argument("--port", type=int, required=True)
    one.add_argument("--address", action="append", default=[], help="for target groups of addresses; may be repeated")
    one.add_argument("--keep", type=int, default=1, help="healthy targets that are left at least")
    one.add_argument("--remember", type=Path, required=True, help="file of what was taken out")
    one.add_argument("--wait", type=positive, default=0.0, help="seconds to wait for draining to end")

    one = verbs.add_parser("register", parents=[common], help="put back what deregister took out")
    one.add_argument("--remember", type=Path, required=True)
    one.add_argument("--wait", type=positive, default=0.0, help="seconds to wait for it to be healthy")

    one = verbs.add_parser("unhealthy", parents=[common], help="have the Auto Scaling Group replace this host")
    one.add_argument("--ignore-grace", action="store_true", help="even within the group's grace period")

    verbs.add_parser("fleet", parents=[common, fleet], help="who is out, and who acts")
    one = verbs.add_parser("claim", parents=[common, fleet], help="ask whether this host may act now")
    one.add_argument("--limit", type=int, default=1, help="hosts that may be out or act at once, this one included")
    one.add_argument("--settle", type=positive, default=3.0, help="seconds for claims made at once to become visible")
    verbs.add_parser("release", parents=[common], help="give the claim back")
    return top


def perform(options: argparse.Namespace) -> dict[str, Any]:
    identity = Identity(options.instance_id, options.region, tuple(getattr(options, "address", ())))
    if options.verb == "register" and not Memory(options.remember).read():
        # Nothing was taken out: no call is needed.
        return {"changed": False, "dry_run": options.dry_run, "target_groups": []}
    cloud = Cloud(identity.region, options.endpoint_url, options.deadline)
    if options.verb in ("deregister", "register"):
        return _targets(cloud, identity, options)
    if options.verb == "unhealthy":
        return group.unhealthy(
            cloud, identity.instance_id, respect_grace=not options.ignore_grace, dry_run=options.dry_run
        )
    return _fleet(cloud, identity, options)


def _targets(cloud: Cloud, identity: Identity, options: argparse.Namespace) -> dict[str, Any]:
    memory, wait, dry_run = Memory(options.remember), options.wait, options.dry_run
    if options.verb == "register":
        return targets.register(cloud, memory, wait=wait, dry_run=dry_run)
    return targets.deregister(
        cloud, identity, memory, options.target_group, options.port, keep=options.keep, wait=wait, dry_run=dry_run
    )


def _fleet(cloud: Cloud, identity: Identity, options: argparse.Namespace) -> dict[str, Any]:
    if options.verb == "release":
        return Fleet(cloud, "", (), 0.0).release(identity.instance_id, options.dry_run)
    name = options.group
    if not name and not options.target_group:
        name = str(group.member(cloud, identity.instance_id)["AutoScalingGroupName"])
    fleet = Fleet(cloud, name, options.target_group, options.expires)
    if options.verb == "fleet":
        return fleet.summary()
    return fleet.claim(identity.instance_id, options.limit, options.settle, options.dry_run)


def tell(answer: dict[str, Any]) -> None:
    print(json.dumps(answer, sort_keys=True), flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)

    def late(_number: int, _frame: FrameType | None) -> None:
        raise DeadlineError

    signal.signal(signal.SIGALRM, late)
    # Zero would mean never.
    signal.setitimer(signal.ITIMER_REAL, max(options.deadline, 0.001))
    try:
        answer = perform(options)
    except DeadlineError:
        error = f"{options.verb}: no end within {options.deadline:g} s; AWS is slow, or the route to it is"
        tell({"ok": False, "kind": "timeout", "error": error})
        return 1
    except ToolError as failure:
        tell({"ok": False, "kind": failure.kind, "error": str(failure), **failure.more})
        return 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    tell({"ok": True, **answer})
    return 0
