# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is to change in a target group's health check, and what would be wrong with it.

Private to steadfast.vllm: it may change without notice. Pure: the calls to AWS stand in _elbv2.py.
"""

from __future__ import annotations

import typing as t

from ansible_collections.steadfast.vllm.plugins.module_utils import _health_check as rules

Group = dict[str, t.Any]

# Our key, and where ModifyTargetGroup and DescribeTargetGroups keep it. The matcher is a structure of its own.
API_NAMES = {
    "enabled": "HealthCheckEnabled",
    "path": "HealthCheckPath",
    "port": "HealthCheckPort",
    "protocol": "HealthCheckProtocol",
    "interval": "HealthCheckIntervalSeconds",
    "timeout": "HealthCheckTimeoutSeconds",
    "healthy_threshold": "HealthyThresholdCount",
    "unhealthy_threshold": "UnhealthyThresholdCount",
}

# What decides whether a check passes; the other keys decide how often and how soon it counts.
VERDICT_KEYS = frozenset({"enabled", "path", "port", "protocol", "matcher", "timeout"})


def resource(described: t.Mapping[str, t.Any]) -> Group:
    """A target group as our modules return it, from what DescribeTargetGroups or ModifyTargetGroup says."""
    matcher = described.get("Matcher") or {}
    check: dict[str, t.Any] = {key: described.get(name) for key, name in API_NAMES.items()}
    # An empty string is how an emulator may say that a TCP check has no path.
    check["path"] = check["path"] or None
    check["matcher"] = matcher.get("HttpCode") or matcher.get("GrpcCode")
    return {
        "name": described["TargetGroupName"],
        "arn": described["TargetGroupArn"],
        "protocol": described.get("Protocol"),
        "protocol_version": described.get("ProtocolVersion"),
        "port": described.get("Port"),
        "target_type": described.get("TargetType"),
        "vpc_id": described.get("VpcId"),
        "load_balancer_arns": list(described.get("LoadBalancerArns") or []),
        "health_check": check,
    }


def given(settings: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """The keys that somebody set; one that is None is to be left as it is."""
    return {key: value for key, value in settings.items() if value is not None}


def option_problems(settings: t.Mapping[str, t.Any], place: str = "health_check") -> list[str]:
    """What is wrong with the settings whatever the target groups are, so that it can be told before any call."""
    named = rules.codes(settings.get("matcher"))
    if named and max(named) <= rules.HIGHEST_GRPC_CODE:
        # Right or wrong depends on whether the target groups speak gRPC.
        settings = {**settings, "matcher": None}
    return rules.problems(settings, place)


def changes(settings: t.Mapping[str, t.Any], group: Group) -> dict[str, t.Any]:
    """The keys of valid settings that the group does not have yet, with their new values."""
    current = group["health_check"]
    return {
        key: value
        for key, value in given(rules.normalised(settings)).items()
        if not _same(key, value, current.get(key))
    }


def request(group: Group, changed: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """The arguments of ModifyTargetGroup that make these changes and touch nothing else."""
    arguments = {API_NAMES[key]: value for key, value in changed.items() if key in API_NAMES}
    if "matcher" in changed:
        kind = "GrpcCode" if group["protocol_version"] == "GRPC" else "HttpCode"
        arguments["Matcher"] = {kind: changed["matcher"]}
    return {"TargetGroupArn": group["arn"], **arguments}


def predicted(group: Group, changed: t.Mapping[str, t.Any]) -> Group:
    """The group as it would be after these changes, for check mode."""
    check = _merged(group, changed)
    if _by_http(check) and check["matcher"] is None and not _by_http(group["health_check"]):
        # AWS's own default for a Network Load Balancer whose check turns from TCP to HTTP.
        check["matcher"] = "200-399"
    return {**group, "health_check": check}


def group_problems(settings: t.Mapping[str, t.Any], group: Group, place: str = "health_check") -> list[str]:
    """What would be wrong with the group once the settings are laid over what it has now."""
    wanted = given(rules.normalised(settings))
    kind = {
        "target_group_protocol": group["protocol"],
        "target_type": group["target_type"],
        "protocol_version": group["protocol_version"],
    }
    whole = _merged(group, wanted)
    found = rules.problems({**whole, **wanted}, place, **kind)
    # A group may have been made under older rules (a TCP check of 10 seconds every 10 seconds): what we are not
    # asked to touch is no reason to refuse.
    already = rules.problems(group["health_check"], place, **kind)
    found = [line for line in found if line not in already]
    if wanted and _by_http(whole) and whole["path"] is None and group["protocol_version"] != "GRPC":
        found.append(
            f"{place}.path: not given, and the target group has none, as it is not checked by HTTP so far; AWS would "
            "take '/', where vLLM answers 404; give path: /health"
        )
    return found


def all_problems(settings: t.Mapping[str, t.Any], groups: t.Iterable[Group]) -> list[str]:
    """The problems of all groups, each once, with the groups that have it."""
    names: dict[str, list[str]] = {}
    for group in groups:
        for line in group_problems(settings, group):
            names.setdefault(line, []).append(group["name"])
    return [f"{line} [target group {some(affected)}]" for line, affected in names.items()]


def some(names: t.Sequence[str], most: int = 5) -> str:
    """A few names, and how many more there are."""
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def difference(before: Group, after: Group) -> dict[str, t.Any]:
    """One entry of the task's diff: the resource as returned, before and after."""
    return {
        "before_header": before["arn"],
        "after_header": after["arn"],
        "before": before,
        "after": after,
    }


def settle_time(group: Group, changed: t.Mapping[str, t.Any]) -> int:
    """Seconds until targets that fail the changed check are known to fail it: before that, healthy means nothing."""
    if not VERDICT_KEYS & set(changed):
        return 0
    check = _merged(group, changed)
    return int(check["interval"] or 0) * int(check["unhealthy_threshold"] or 0) + int(check["timeout"] or 0)


def _merged(group: Group, changed: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    check = {**group["health_check"], **changed}
    if check["protocol"] == "TCP":
        # AWS drops both when a check becomes a mere connection.
        check["path"] = check["matcher"] = None
    return check


def _by_http(check: t.Mapping[str, t.Any]) -> bool:
    return check["protocol"] in rules.ALB_PROTOCOLS


def _same(key: str, wanted: object, current: object) -> bool:
    if key == "matcher" and current is not None:
        # "200,202" and "202,200" ask for the same: no reason to write.
        return rules.codes(wanted) == rules.codes(current)
    return wanted == current
