#!/usr/bin/python

# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: alb_target_health_info
author: steadfast.vllm contributors (@steadfast-vllm)
version_added: "0.1.0"
short_description: Say which targets of target groups are healthy, and why the others are not
description:
  - Reads the health of all targets of one or many ELBv2 target groups.
  - Each target comes with what its reason code means for a vLLM server and what to do about it.
  - Only Describe calls are made, one for each target group and one for each 20 of them.
attributes:
  check_mode:
    support: full
  diff_mode:
    support: N/A
  idempotent:
    support: full
extends_documentation_fragment:
  - amazon.aws.common.modules
  - amazon.aws.region.modules
  - amazon.aws.boto3
  - steadfast.vllm.attributes.info
  - steadfast.vllm.target_groups
notes:
  - The credentials need C(elasticloadbalancing:DescribeTargetGroups) and C(elasticloadbalancing:DescribeTargetHealth),
    with O(load_balancer) also C(DescribeLoadBalancers), and with O(tags) also C(DescribeTags).
seealso:
  - module: steadfast.vllm.alb_health_check
  - name: TargetHealth
    description: The states and reason codes.
    link: https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_TargetHealth.html
"""

EXAMPLES = r"""
- name: Read the health of all targets behind a load balancer
  steadfast.vllm.alb_target_health_info:
    region: eu-west-1
    load_balancer: inference
  register: inference

- name: Show those that are not healthy, why, and what to do
  ansible.builtin.debug:
    msg: "{{ inference.unhealthy }}"

- name: Stop unless each target group has a healthy target
  steadfast.vllm.alb_target_health_info:
    region: eu-west-1
    target_groups: [qwen3vl]
  register: group
  failed_when: group.target_groups | selectattr('healthy', '==', 0) | list | length > 0
"""

RETURN = r"""
target_groups:
  description: The target groups, in the order given.
  returned: success
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
      description: The health check, with the keys of O(steadfast.vllm.alb_health_check#module:health_check).
      type: dict
    healthy:
      description: How many targets are healthy. At 0 the load balancer fails open and sends requests to all of them.
      type: int
      sample: 1
    targets:
      description: The targets.
      type: list
      elements: dict
      contains:
        id:
          description: Instance id, address, or ARN of a function or load balancer.
          type: str
          sample: i-0123456789abcdef0
        port:
          description: The port that serves; none for a Lambda function.
          type: int
          sample: 8000
        az:
          description: The Availability Zone, where AWS gives it.
          type: str
          sample: eu-west-1a
        health_check_port:
          description: The port that is checked.
          type: str
          sample: "8000"
        state:
          description:
            - V(initial), V(healthy), V(unhealthy), V(unhealthy.draining), V(unused), V(draining) or V(unavailable).
          type: str
          sample: unhealthy
        reason:
          description: AWS's reason code; none when healthy.
          type: str
          sample: Target.ResponseCodeMismatch
        description:
          description: AWS's own words; none when healthy.
          type: str
          sample: "Health checks failed with these codes: [404]"
        meaning:
          description: What that means for a vLLM server.
          type: str
          sample: "vLLM answers 404 on /: it has no page there, so a healthy server looks broken"
        fix:
          description: What to do; empty when there is nothing to do.
          type: str
          sample: "set health_check.path: /health, which is 200 as soon as vLLM serves"
        anomaly:
          description: V(anomalous) or V(normal) where AWS looks for anomalies, else none.
          type: str
        administrative_override:
          description: The state of a zonal shift where there can be one, else none.
          type: str
unhealthy:
  description: One line for each target that is not healthy, C(group id:port state reason meaning -> fix).
  returned: success
  type: list
  elements: str
"""

import typing as t

from ansible_collections.amazon.aws.plugins.module_utils.exceptions import AnsibleAWSError
from ansible_collections.amazon.aws.plugins.module_utils.modules import AnsibleAWSModule
from ansible_collections.steadfast.vllm.plugins.module_utils import _elbv2, _target_health
from ansible_collections.steadfast.vllm.plugins.module_utils._target_group_names import (
    SELECTION_ARGUMENTS,
    SELECTION_RULES,
    SelectionError,
)


def with_targets(client: t.Any, group: dict[str, t.Any]) -> dict[str, t.Any]:
    targets = [_target_health.row(group, entry) for entry in _elbv2.target_health(client, group)]
    return {**group, "healthy": sum(entry["state"] == "healthy" for entry in targets), "targets": targets}


def run(module: t.Any) -> None:
    client = module.client("elbv2")
    try:
        groups = [with_targets(client, group) for group in _elbv2.select(client, module.params)]
    except SelectionError as error:
        module.fail_json(msg=str(error))
    except AnsibleAWSError as error:
        module.fail_json(msg=_elbv2.failure(error))
    unhealthy = [
        f"{group['name']} {_target_health.line(entry)}"
        for group in groups
        for entry in group["targets"]
        if entry["state"] != "healthy"
    ]
    module.exit_json(changed=False, target_groups=groups, unhealthy=unhealthy)


def main() -> None:
    run(AnsibleAWSModule(argument_spec=dict(SELECTION_ARGUMENTS), supports_check_mode=True, **SELECTION_RULES))


if __name__ == "__main__":
    main()
