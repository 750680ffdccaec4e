# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The filter that reads from the inventory what a balancer has to know about its hosts."""

from __future__ import annotations

DOCUMENTATION = r"""
name: balancer_backends
author: steadfast.vllm contributors (@steadfast-vllm)
version_added: "0.1.0"
short_description: Read address and instances of each host from the inventory
description:
  - For each host its C(vllm_instances) over its C(vllm_instance_defaults), complete and checked, and its address,
    which is C(vllm_address), else C(ansible_host), else its name.
  - Needs no facts of the hosts, so it is right in a run with C(--limit) too.
positional: _input
options:
  _input:
    description: The names of the hosts.
    type: list
    elements: string
    required: true
  hostvars:
    description: The variable C(hostvars).
    type: dict
    required: true
seealso:
  - plugin: steadfast.vllm.balancer
    plugin_type: filter
  - plugin: steadfast.vllm.instances
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Show where the balancer would find its servers
  ansible.builtin.debug:
    msg: "{{ groups['vllm'] | steadfast.vllm.balancer_backends(hostvars) | map(attribute='address') }}"
"""

RETURN = r"""
_value:
  description:
    - For each host V(host), V(address) and V(instances), of which only what a balancer reads, V(name), V(host),
      V(port), V(standby) and V(timeouts), and no secret.
  type: list
  elements: dict
"""

import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.steadfast.vllm.plugins.filter.instances import resolved
from ansible_collections.steadfast.vllm.plugins.module_utils._instances import InputError, normalise

# What a balancer reads of an instance. The rest stays behind: there are secrets in it, and this result is shown.
KEYS = ("name", "host", "port", "standby", "timeouts")


def balancer_backends(hosts: list[str], hostvars: t.Mapping[str, t.Mapping[str, t.Any]]) -> list[dict[str, t.Any]]:
    found: list[dict[str, t.Any]] = []
    problems: list[str] = []
    for host in hosts:
        if host not in hostvars:
            problems.append(f"load_balancer_hosts: {host!r} is no host of this inventory; name inventory hosts")
            continue
        variables = hostvars[host]
        try:
            instances = normalise(
                resolved(variables.get("vllm_instances")), resolved(variables.get("vllm_instance_defaults"))
            )
        except InputError as error:
            problems += [f"{host}: {problem}" for problem in error.problems]
            continue
        found.append(
            {
                "host": str(host),
                "address": str(variables.get("vllm_address") or variables.get("ansible_host") or host),
                "instances": [{key: instance[key] for key in KEYS} for instance in instances],
            }
        )
    if problems:
        raise AnsibleFilterError("the balancer cannot be built:\n" + "\n".join(problems))
    return found


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., list[dict[str, t.Any]]]]:
        return {"balancer_backends": balancer_backends}
