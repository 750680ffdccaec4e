# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The filter that makes `vllm_health_check` whole, for roles, balancers and the ALB module alike."""

from __future__ import annotations

DOCUMENTATION = r"""
name: health_check
author: steadfast.vllm contributors (@steadfast-vllm)
version_added: "0.1.0"
short_description: Complete and check the health check dictionary
description:
  - Lays the keys given over the values of the source guide and checks the result against the limits of ELBv2.
  - All problems are reported at once, one a line, each with its place, the value, the reason and what to give instead.
positional: _input
options:
  _input:
    description:
      - The dictionary, or nothing at all for the guide's values.
      - Its keys are V(path), V(port), V(protocol), V(interval), V(timeout), V(healthy_threshold),
        V(unhealthy_threshold) and V(matcher); V(enabled) may be given for Lambda target groups.
    type: dict
  place:
    description: How the problems name the dictionary.
    type: string
    default: vllm_health_check
seealso:
  - module: steadfast.vllm.alb_health_check
"""

EXAMPLES = r"""
- name: Show the whole dictionary of an inventory that overrides two keys
  ansible.builtin.debug:
    msg: "{{ {'interval': 5, 'timeout': 2} | steadfast.vllm.health_check }}"
  # => {"path": "/health", "port": "traffic-port", "protocol": "HTTP", "interval": 5, "timeout": 2,
  #     "healthy_threshold": 5, "unhealthy_threshold": 2, "matcher": "200"}
"""

RETURN = r"""
_value:
  description:
    - The whole dictionary, numbers as integers, O(_input#filter) keys laid over the guide's.
    - For V(protocol) V(TCP) the keys V(path) and V(matcher) are none.
  type: dict
"""

import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.steadfast.vllm.plugins.module_utils._health_check import HealthCheckError, complete


def health_check(settings: object = None, place: str = "vllm_health_check") -> dict[str, t.Any]:
    try:
        return complete(settings, place)
    except HealthCheckError as error:
        raise AnsibleFilterError(f"the health check cannot be used:\n{error}") from error


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., dict[str, t.Any]]]:
        return {"health_check": health_check}
