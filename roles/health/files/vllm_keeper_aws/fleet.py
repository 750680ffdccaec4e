# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How many hosts of the fleet are out, and whether this one may act now.

A claim is a tag of the host's own EC2 instance, `steadfast:acting` = `<instance-id> <phase> <seconds since 1970>`.
Each host writes only its own, so that no claim overwrites another, a host that was terminated takes its claim along,
and the instance role needs no right to tag anything else.

The race, honestly: tags know no compare-and-swap, and what was written is visible to others only after a moment. So:

1. write `want`, wait `settle` seconds, read all claims;
2. go on only if fewer than `limit` hosts are out, act, or want to and come first (by time, then by id);
3. write `act`, read again, and stand back if there are now too many that act; those with the lower order stay.

Two hosts can pass together only if a claim stays invisible for longer than `settle`. It is a breaker against many hosts
acting on one cause, not a lock; nothing that it guards is wrong to be done twice. A claim expires, so a host that died
with one blocks nobody for long; times are compared with the reader's clock, and a claim from further in the future than
it could live is taken for expired.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from vllm_keeper_aws import group as asg
from vllm_keeper_aws import targets
from vllm_keeper_aws.cloud import Cloud
from vllm_keeper_aws.errors import ToolError

EC2 = "ec2"
KEY = "steadfast:acting"
WANT, ACT = "want", "act"
WANT_LIVES = 120.0  # longer than anybody settles: of a process that was killed while it did
FILTERS = 200  # values that a filter of EC2 takes


@dataclass(frozen=True)
class Claim:
    instance: str
    phase: str
    at: float

    @property
    def text(self) -> str:
        return f"{self.instance} {self.phase} {self.at:.3f}"


def parse(instance: str, text: str) -> Claim | None:
    """What stands in a tag of INSTANCE; None for what is no claim, or one that was copied from another instance."""
    words = text.split()
    try:
        claim = Claim(words[0], words[1], float(words[2]))
    except (IndexError, ValueError):
        return None
    good = len(words) == 3 and claim.instance == instance and claim.phase in (WANT, ACT) and math.isfinite(claim.at)
    return claim if good else None


def valid(claims: Iterable[Claim], now: float, expires: float) -> list[Claim]:
    """In the order in which they may act: those that do already, then by time, then by name."""
    lives = {ACT: expires, WANT: min(expires, WANT_LIVES)}
    kept = [one for one in claims if abs(now - one.at) < lives[one.phase]]
    return sorted(kept, key=lambda one: (one.phase != ACT, one.at, one.instance))


def before(mine: Claim, claims: Sequence[Claim]) -> list[str]:
    """Who comes before MINE; CLAIMS in their order."""
    order = [one.instance for one in claims]
    return order[: order.index(mine.instance)] if mine.instance in order else order


def out_of(instances: Iterable[dict[str, Any]]) -> dict[str, str]:
    """Members of an Auto Scaling Group that do not serve, and why."""
    found = {}
    for one in instances:
        if one["LifecycleState"] != "InService":
            found[str(one["InstanceId"])] = str(one["LifecycleState"])
        elif str(one["HealthStatus"]).lower() != "healthy":
            found[str(one["InstanceId"])] = str(one["HealthStatus"])
    return found


@dataclass
class Fleet:
    cloud: Cloud
    group: str
    target_groups: Sequence[str]
    expires: float
    clock: Callable[[], float] = time.time

    def look(self) -> dict[str, Any]:
        """The fleet as it is now: hosts by name, and why each that is out is."""
        hosts: set[str] = set()
        out: dict[str, str] = {}
        for name in self.target_groups:
            for one in targets.health(self.cloud, targets.arn_of(self.cloud, name)):
                host = str(one["Target"]["Id"])
                hosts.add(host)
                if not targets.serves(one):
                    reason = str(one.get("TargetHealth", {}).get("Reason") or "")
                    out[host] = f"{targets.state(one)} ({reason})" if reason else targets.state(one)
        if self.group:
            members = asg.members(self.cloud, self.group)
            hosts |= {str(one["InstanceId"]) for one in members}
            out.update(out_of(members))
        return {"hosts": sorted(hosts), "out": dict(sorted(out.items()))}

    def claims(self, hosts: Sequence[str]) -> list[Claim]:
        instances = [host for host in hosts if host.startswith("i-")]
        if hosts and not instances:
            raise ToolError(
                "usage",
                "the target groups hold addresses, of which no tags can be read: give --group, the Auto Scaling Group",
            )
        found: list[Claim] = []
        for begin in range(0, len(instances), FILTERS):
            filters = [
                {"Name": "resource-id", "Values": instances[begin : begin + FILTERS]},
                {"Name": "key", "Values": [KEY]},
            ]
            for tag in self.cloud.pages(EC2, "DescribeTags", "Tags", "NextToken", Filters=filters):
                claim = parse(str(tag["ResourceId"]), str(tag["Value"]))
                found += [claim] if claim else []
        return valid(found, self.clock(), self.expires)

    def summary(self) -> dict[str, Any]:
        seen = self.look()
        acting = self.claims(seen["hosts"])
        return {
            "changed": False,
            "total": len(seen["hosts"]),
            "out": seen["out"],
            "acting": {one.instance: one.phase for one in acting},
        }

    def claim(self, me: str, limit: int, settle: float, dry_run: bool) -> dict[str, Any]:
        mine = Claim(me, WANT, self.clock())
        if dry_run:
            return self._answer(mine, limit, changed=False, dry_run=True)
        earlier = [one for one in self.claims([me]) if one.phase == ACT]
        if earlier:
            # It is ours already: taken again, or renewed by a keeper that was restarted.
            return self._answer(self._write(Claim(me, ACT, self.clock())), limit, changed=True)
        self._write(mine)
        try:
            self.cloud.sleep(settle)
            answer = self._answer(mine, limit, changed=True)
            if answer["granted"]:
                acting = self._write(Claim(me, ACT, mine.at))
                answer = self._answer(acting, limit, changed=True)
        except ToolError:
            self.release(me)
            raise
        if not answer["granted"]:
            self.release(me)
        return answer

    def _answer(self, mine: Claim, limit: int, *, changed: bool, dry_run: bool = False) -> dict[str, Any]:
        seen = self.look()
        claims = self.claims(sorted({*seen["hosts"], mine.instance}))
        first = [one for one in before(mine, claims) if one != mine.instance]
        taken = sorted({*first, *(host for host in seen["out"] if host != mine.instance)})
        granted = len(taken) < limit
        reason = f"{len(taken)} of at most {limit} are out or act: {', '.join(taken) or 'none'}"
        return {
            "changed": changed,
            "dry_run": dry_run,
            "granted": granted,
            "reason": reason,
            "total": len(seen["hosts"]),
            "out": seen["out"],
            "acting": {one.instance: one.phase for one in claims},
        }

    def _write(self, claim: Claim) -> Claim:
        self.cloud.call(EC2, "CreateTags", Resources=[claim.instance], Tags=[{"Key": KEY, "Value": claim.text}])
        return claim

    def release(self, me: str, dry_run: bool = False) -> dict[str, Any]:
        if not dry_run:
            self.cloud.call(EC2, "DeleteTags", Resources=[me], Tags=[{"Key": KEY}])
        return {"changed": not dry_run, "dry_run": dry_run}
