# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Out of the target groups and back. Idempotent; each group by itself, so that one that fails keeps no other."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from vllm_keeper_aws.cloud import Cloud
from vllm_keeper_aws.errors import ToolError
from vllm_keeper_aws.identity import Identity
from vllm_keeper_aws.memory import Memory, Taken

ELB = "elbv2"
STEP = 2.0
GONE = "TargetGroupNotFound"


@dataclass
class Report:
    changed: bool = False
    groups: list[dict[str, Any]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    kinds: list[ToolError] = field(default_factory=list)

    def failed(self, group: str, error: ToolError) -> None:
        self.errors.append(f"{group}: {error}")
        self.kinds.append(error)

    def answer(self, dry_run: bool) -> dict[str, Any]:
        if self.kinds:
            first = self.kinds[0]
            raise ToolError(
                first.kind, "; ".join(self.errors), **first.more, changed=self.changed, target_groups=self.groups
            )
        return {"changed": self.changed, "dry_run": dry_run, "target_groups": self.groups}


def arn_of(cloud: Cloud, group: str) -> str:
    if group.startswith("arn:"):
        return group
    found = cloud.call(ELB, "DescribeTargetGroups", Names=[group])["TargetGroups"]
    if len(found) != 1:
        raise ToolError("not_found", f"{group}: no such target group in {cloud.region}")
    return str(found[0]["TargetGroupArn"])


def health(cloud: Cloud, arn: str) -> list[dict[str, Any]]:
    answer: list[dict[str, Any]] = cloud.call(ELB, "DescribeTargetHealth", TargetGroupArn=arn)[
        "TargetHealthDescriptions"
    ]
    return answer


def state(described: dict[str, Any]) -> str:
    return str(described.get("TargetHealth", {}).get("State", ""))


# Of a target group that no balancer uses, or does not check: nothing is known to be wrong with its targets.
UNCHECKED = ("Target.NotInUse", "Target.HealthCheckDisabled")


def serves(described: dict[str, Any]) -> bool:
    return state(described) == "healthy" or described.get("TargetHealth", {}).get("Reason") in UNCHECKED


def leaves(described: dict[str, Any]) -> bool:
    return "draining" in state(described)


def is_here(described: dict[str, Any], identity: Identity, port: int) -> bool:
    target = described["Target"]
    if int(target.get("Port") or 0) != port:
        return False
    # Target groups hold instances or addresses; only what is needed of the identity is asked for.
    return target["Id"] in ([identity.instance_id] if target["Id"].startswith("i-") else identity.addresses)


def deregister(
    cloud: Cloud,
    identity: Identity,
    memory: Memory,
    groups: Sequence[str],
    port: int,
    *,
    keep: int = 1,
    wait: float = 0,
    dry_run: bool = False,
) -> dict[str, Any]:
    report, out = Report(), list[Taken]()
    known = memory.read()
    for group in groups:
        try:
            arn = arn_of(cloud, group)
            described = health(cloud, arn)
            ours = [one for one in described if is_here(one, identity, port)]
            here = [one for one in ours if not leaves(one)]
            others = [one for one in described if one not in ours and serves(one)]
            said = {
                "target_group": arn,
                "targets": [one["Target"]["Id"] for one in here],
                "healthy_others": len(others),
            }
            if not here:
                report.groups.append({**said, "result": "draining" if ours else "not registered"})
            elif len(others) < keep:
                # A target group without a healthy target sends requests to all it has, and an empty one answers 503:
                # taking out the last one helps nobody.
                report.groups.append({**said, "result": "kept", "reason": f"it would leave fewer than {keep} healthy"})
            else:
                taken = [_taken(arn, one["Target"]) for one in here]
                if not dry_run:
                    known = [*known, *(one for one in taken if one not in known)]
                    memory.write(known)
                    cloud.call(ELB, "DeregisterTargets", TargetGroupArn=arn, Targets=[_target(one) for one in taken])
                out += taken
                report.changed = True
                report.groups.append({**said, "result": "deregistered"})
        except ToolError as error:
            report.failed(group, error)
    if wait and not dry_run:
        _settle(cloud, report, out, wait, lambda now: "draining" not in now, "drained")
    return report.answer(dry_run)


def register(cloud: Cloud, memory: Memory, *, wait: float = 0, dry_run: bool = False) -> dict[str, Any]:
    report, back = Report(), list[Taken]()
    known = memory.read()
    for arn in dict.fromkeys(one.group for one in known):
        taken = [one for one in known if one.group == arn]
        said = {"target_group": arn, "targets": [one.target for one in taken]}
        try:
            if not dry_run:
                cloud.call(ELB, "RegisterTargets", TargetGroupArn=arn, Targets=[_target(one) for one in taken])
            back += taken
            report.changed = True
            report.groups.append({**said, "result": "registered"})
        except ToolError as error:
            if GONE not in str(error):
                report.failed(arn, error)
                continue
            # It was removed meanwhile: there is nothing to go back to, and asking for ever would help nobody.
            report.groups.append({**said, "result": "target group removed"})
        if not dry_run:
            known = [one for one in known if one.group != arn]
            memory.write(known)
    if wait and not dry_run:
        _settle(cloud, report, back, wait, lambda now: now == "healthy", "healthy")
    return report.answer(dry_run)


def _taken(arn: str, target: dict[str, Any]) -> Taken:
    return Taken(arn, str(target["Id"]), int(target["Port"]), str(target.get("AvailabilityZone") or ""))


def _target(taken: Taken) -> dict[str, Any]:
    zone = {"AvailabilityZone": taken.zone} if taken.zone else {}
    return {"Id": taken.target, "Port": taken.port, **zone}


def _settle(
    cloud: Cloud, report: Report, targets: Sequence[Taken], wait: float, good: Callable[[str], bool], word: str
) -> None:
    """Waits for all of them; each group's entry says under WORD whether it came to that. Not an error where not."""
    until = cloud.left() - wait
    pending = {one.group for one in targets}
    waited = set(pending)
    while pending and cloud.left() > max(until, 0.0):
        for arn in sorted(pending):
            mine = [(one.target, one.port) for one in targets if one.group == arn]
            with contextlib.suppress(ToolError):  # what was done is done; only the waiting fails
                now = {(one["Target"]["Id"], one["Target"].get("Port")): state(one) for one in health(cloud, arn)}
                if all(good(now.get(target, "unused")) for target in mine):
                    pending.discard(arn)
        if pending:
            cloud.sleep(min(STEP, max(0.0, cloud.left() - until)))
    for entry in report.groups:
        if entry["target_group"] in waited:
            entry[word] = entry["target_group"] not in pending
