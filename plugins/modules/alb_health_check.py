#!/usr/bin/python

# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: alb_health_check
author: steadfast.vllm contributors (@steadfast-vllm)
version_added: "0.1.0"
short_description: Set the health check of load balancer target groups
description:
  - Changes the health check of one or many ELBv2 target groups, and nothing else about them.
  - Only Describe calls and C(ModifyTargetGroup) are ever made, so targets, listeners and attributes cannot be lost.
  - A key of O(health_check) that is not given is left as it is. The values wanted are laid over those that each target
    group has now, and the whole is checked before the first change; all problems are reported at once.
  - Up to 20 target groups are read in one call, and a target group that needs nothing costs no call of its own.
options:
  health_check:
    description:
      - The keys to set. Pass C(vllm_health_check | steadfast.vllm.health_check) to set all of the collection's values.
      - May be left out when only O(wait) is wanted.
    type: dict
    suboptions:
      path:
        description:
          - Where an HTTP or HTTPS check asks. vLLM answers 200 on V(/health) and 404 on V(/).
          - 1 to 1024 characters, beginning with a slash. For a gRPC target group it is V(/package.Service/Method).
        type: str
      port:
        description: The port that is checked, V(traffic-port) for the one that serves, or 1 to 65535.
        type: str
      protocol:
        description:
          - The protocol of the check. V(TCP) only for target groups of a Network or Gateway Load Balancer.
          - A check that turns from V(TCP) to V(HTTP) or V(HTTPS) needs O(health_check.path).
        type: str
        choices: [HTTP, HTTPS, TCP]
      interval:
        description: Seconds between two checks of a target, 5 to 300.
        type: int
      timeout:
        description:
          - Seconds after which a check without an answer has failed, 2 to 120 and below O(health_check.interval).
        type: int
      healthy_threshold:
        description: Checks in a row that an unhealthy target must pass to be healthy, 2 to 10.
        type: int
      unhealthy_threshold:
        description: Checks in a row that a healthy target must fail to be unhealthy, 2 to 10.
        type: int
      matcher:
        description:
          - The codes that pass, as one (V(200)), several (V(200,202)) or a range (V(200-299)).
          - HTTP codes are 200 to 499 for an Application, 200 to 599 for a Network and 200 to 399 for a Gateway Load
            Balancer. For a gRPC target group these are gRPC codes, 0 to 99.
          - A matcher that names the same codes in another spelling is no change.
        type: str
      enabled:
        description: Whether targets are checked. Only a Lambda target group can do without.
        type: bool
  wait:
    description:
      - Wait until the targets of each target group are healthy.
      - After a change of what is asked for (all but O(health_check.interval) and the thresholds), a target counts as
        healthy only when the new check has had the time to fail, which is
        C(interval x unhealthy_threshold + timeout) seconds. Until then AWS still shows the verdict of the old check.
      - Not done in check mode.
    type: bool
    default: false
  wait_for:
    description:
      - How many targets of each target group are to be healthy, V(all) or a number.
      - With V(all), targets that are being deregistered do not count, and at least one must be registered.
    type: str
    default: all
  wait_timeout:
    description:
      - Seconds to wait before the task fails with a list of the targets that are not healthy, why, and what to do.
    type: int
    default: 300
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
    details:
      - One entry for each changed target group, before and after as in RV(target_groups).
  idempotent:
    support: full
extends_documentation_fragment:
  - amazon.aws.common.modules
  - amazon.aws.region.modules
  - amazon.aws.boto3
  - steadfast.vllm.attributes
  - steadfast.vllm.target_groups
notes:
  - The credentials need C(elasticloadbalancing:DescribeTargetGroups) and C(elasticloadbalancing:ModifyTargetGroup),
    with O(load_balancer) also C(DescribeLoadBalancers), with O(tags) also C(DescribeTags), and with O(wait) also
    C(DescribeTargetHealth).
  - A target group whose targets are all unhealthy fails open, so the load balancer then sends requests to all of them.
  - The interval of a Lambda target group must be longer than the function's own timeout, which this module cannot see.
seealso:
  - module: steadfast.vllm.alb_target_health_info
  - plugin: steadfast.vllm.health_check
    plugin_type: filter
  - name: ModifyTargetGroup
    description: The call behind this module, with the limits of each value.
    link: https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_ModifyTargetGroup.html
"""

EXAMPLES = r"""
- name: Check vLLM where it answers, and leave all else as it is
  steadfast.vllm.alb_health_check:
    region: eu-west-1
    target_groups: [qwen3vl]
    health_check:
      path: /health

- name: Give all target groups of the inventory the collection's health check, and wait for two healthy targets in each
  steadfast.vllm.alb_health_check:
    region: eu-west-1
    target_groups: "{{ vllm_target_groups }}"
    health_check: "{{ vllm_health_check | default({}) | steadfast.vllm.health_check }}"
    wait: true
    wait_for: 2
    wait_timeout: 600

- name: Notice a dead host sooner, in every target group behind one load balancer
  steadfast.vllm.alb_health_check:
    region: eu-west-1
    load_balancer: inference
    health_check:
      interval: 10
      timeout: 4
      unhealthy_threshold: 2

- name: Set the path in all target groups with a tag
  steadfast.vllm.alb_health_check:
    region: eu-west-1
    tags:
      service: vllm
    health_check:
      path: /health
      matcher: "200"
"""

RETURN = r"""
target_groups:
  description:
    - The target groups named, in the order given, as they are now (in check mode, as they would be).
    - Also returned by a run that fails half-way, with what is true then.
  returned: when they could be read
  type: list
  elements: dict
  contains:
    name:
      description: The name.
      type: str
      sample: qwen3vl
    arn:
      description: The ARN.
      type: str
      sample: arn:aws:elasticloadbalancing:eu-west-1:123456789012:targetgroup/qwen3vl/73e2d6bc24d8a067
    protocol:
      description: The protocol of the traffic; none for a Lambda target group.
      type: str
      sample: HTTP
    protocol_version:
      description: V(HTTP1), V(HTTP2) or V(GRPC); none for other protocols.
      type: str
      sample: HTTP1
    port:
      description: The port of the traffic, unless a target has its own.
      type: int
      sample: 8000
    target_type:
      description: V(instance), V(ip), V(lambda) or V(alb).
      type: str
      sample: instance
    vpc_id:
      description: The VPC of the targets.
      type: str
      sample: vpc-0123456789abcdef0
    load_balancer_arns:
      description: The load balancers that use the target group.
      type: list
      elements: str
    health_check:
      description: The health check, with the keys of O(health_check); a key that does not apply is none.
      type: dict
      sample:
        enabled: true
        path: /health
        port: traffic-port
        protocol: HTTP
        interval: 30
        timeout: 5
        healthy_threshold: 5
        unhealthy_threshold: 2
        matcher: "200"
modified:
  description:
    - The names of the target groups that were changed (in check mode, that would be).
    - Right also when the task fails, so that it is known what was done before.
  returned: when they could be read
  type: list
  elements: str
  sample: [qwen3vl]
pending:
  description: The names of the target groups that were still to be changed when a call failed.
  returned: when a change fails
  type: list
  elements: str
targets:
  description:
    - For each target group by its name, its targets, as in
      RV(steadfast.vllm.alb_target_health_info#module:target_groups[].targets).
  returned: when O(wait=true), outside check mode
  type: dict
"""

import time
import typing as t

from ansible_collections.amazon.aws.plugins.module_utils.exceptions import AnsibleAWSError
from ansible_collections.amazon.aws.plugins.module_utils.modules import AnsibleAWSModule
from ansible_collections.steadfast.vllm.plugins.module_utils import (
    _elbv2,
    _health_check,
    _target_groups,
    _target_health,
)
from ansible_collections.steadfast.vllm.plugins.module_utils._target_group_names import (
    SELECTION_ARGUMENTS,
    SELECTION_RULES,
    SelectionError,
)

ARGUMENTS: dict[str, t.Any] = {
    **SELECTION_ARGUMENTS,
    "health_check": {
        "type": "dict",
        "options": {
            "path": {"type": "str"},
            "port": {"type": "str"},
            "protocol": {"type": "str", "choices": list(_health_check.CHECK_PROTOCOLS)},
            "interval": {"type": "int"},
            "timeout": {"type": "int"},
            "healthy_threshold": {"type": "int"},
            "unhealthy_threshold": {"type": "int"},
            "matcher": {"type": "str"},
            "enabled": {"type": "bool"},
        },
    },
    "wait": {"type": "bool", "default": False},
    "wait_for": {"type": "str", "default": "all"},
    "wait_timeout": {"type": "int", "default": 300},
}

# Each target group with the keys that it does not have yet.
Plan = list[tuple[_target_groups.Group, dict[str, t.Any]]]


def option_problems(params: t.Mapping[str, t.Any]) -> list[str]:
    """What is wrong with the options whatever the target groups are, so that no call need be made."""
    if params["health_check"] is None and not params["wait"]:
        return [
            "health_check: nothing is to be set and nothing to be waited for; give keys of health_check or wait: true"
        ]
    found = _target_groups.option_problems(params["health_check"] or {})
    try:
        _target_health.parse_wait_for(params["wait_for"])
    except ValueError as error:
        found.append(str(error))
    if params["wait_timeout"] < 1:
        found.append(f"wait_timeout: {params['wait_timeout']} is not a time; give the seconds to wait, 1 or more")
    return found


def wait_problems(params: t.Mapping[str, t.Any], plan: Plan) -> list[str]:
    """A wait that must end before the new check can have failed would prove nothing."""
    settle = max((_target_groups.settle_time(group, changed) for group, changed in plan), default=0)
    if params["wait"] and settle > params["wait_timeout"]:
        return [
            f"wait_timeout: {params['wait_timeout']} is too short: only {settle} s after the change (interval x "
            f"unhealthy_threshold + timeout) is it known which targets fail the new check; give at least {settle}"
        ]
    return []


def refuse(module: t.Any, problems: list[str], **result: t.Any) -> None:
    if problems:
        module.fail_json(msg="\n".join(["the health check cannot be set; nothing was changed:", *problems]), **result)


def apply(module: t.Any, client: t.Any, plan: Plan) -> dict[str, t.Any]:
    """Make the changes one by one; a failure tells what was done before it."""
    now = {group["arn"]: group for group, _changed in plan}
    modified: list[str] = []
    differences: list[dict[str, t.Any]] = []
    todo = [(group, changed) for group, changed in plan if changed]

    def result() -> dict[str, t.Any]:
        return {
            "changed": bool(modified),
            "modified": list(modified),
            "target_groups": list(now.values()),
            "diff": differences,
        }

    for number, (group, changed) in enumerate(todo):
        try:
            if module.check_mode:
                after = _target_groups.predicted(group, changed)
            else:
                after = _elbv2.modify(client, group["name"], _target_groups.request(group, changed))
        except AnsibleAWSError as error:
            pending = [later["name"] for later, _changed in todo[number:]]
            done = f"changed before: {_target_groups.some(modified)}" if modified else "nothing was changed before"
            module.fail_json(
                msg=f"{_elbv2.failure(error)}; {done}; still to be changed: {_target_groups.some(pending)}; "
                "running the task again goes on from here",
                pending=pending,
                **result(),
            )
        now[group["arn"]] = after
        modified.append(group["name"])
        differences.append(_target_groups.difference(group, after))
    return result()


def wait(module: t.Any, client: t.Any, plan: Plan, result: dict[str, t.Any]) -> None:
    """Poll until each group has its healthy targets; a group that has them is not asked again."""
    wanted = _target_health.parse_wait_for(module.params["wait_for"])
    waiting = {group["name"]: group for group in result["target_groups"]}
    targets: dict[str, list[dict[str, t.Any]]] = {}

    def ready() -> bool:
        for name, group in list(waiting.items()):
            targets[name] = [_target_health.row(group, entry) for entry in _elbv2.target_health(client, group)]
            if _target_health.satisfied(targets[name], wanted):
                del waiting[name]
        return not waiting

    settle = max((_target_groups.settle_time(group, changed) for group, changed in plan), default=0)
    try:
        done = _target_health.wait_until(ready, module.params["wait_timeout"], time.monotonic, time.sleep, settle)
    except AnsibleAWSError as error:
        module.fail_json(msg=_elbv2.failure(error), targets=targets, **result)
    if not done:
        left = {name: targets[name] for name in waiting}
        text = _target_health.report(left, wanted, module.params["wait_timeout"])
        module.fail_json(msg=text, targets=targets, **result)
    result["targets"] = targets


def run(module: t.Any) -> None:
    params = module.params
    refuse(module, option_problems(params))
    settings = _target_groups.given(_health_check.normalised(params["health_check"] or {}))
    client = module.client("elbv2")
    try:
        groups = _elbv2.select(client, params)
    except SelectionError as error:
        module.fail_json(msg=str(error))
    except AnsibleAWSError as error:
        module.fail_json(msg=_elbv2.failure(error))
    refuse(module, _target_groups.all_problems(settings, groups), target_groups=groups, modified=[])
    plan = [(group, _target_groups.changes(settings, group)) for group in groups]
    refuse(module, wait_problems(params, plan), target_groups=groups, modified=[])
    result = apply(module, client, plan)
    if params["wait"] and not module.check_mode:
        wait(module, client, plan, result)
    module.exit_json(**result)


def main() -> None:
    run(AnsibleAWSModule(argument_spec=ARGUMENTS, supports_check_mode=True, **SELECTION_RULES))


if __name__ == "__main__":
    main()
