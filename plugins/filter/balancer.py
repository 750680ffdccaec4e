# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The filter that turns hosts and a health check into what a HAProxy configuration says."""

from __future__ import annotations

DOCUMENTATION = r"""
name: balancer
author: steadfast.vllm contributors (@steadfast-vllm)
version_added: "0.1.0"
short_description: Derive frontends, backends and servers of a HAProxy in front of vLLM hosts
description:
  - One frontend and one backend for each instance name, one server for each host that has the instance.
  - All problems are reported at once, one a line, each with its place, the value, the reason and what to do.
positional: _input
options:
  _input:
    description: >-
      The hosts, each with V(host), V(address) and V(instances) (complete), as
      P(steadfast.vllm.balancer_backends#filter) returns them.
    type: list
    elements: dict
    required: true
  health_check:
    description:
      - The complete health check dictionary, as P(steadfast.vllm.health_check#filter) returns it.
      - In its path V({name}) stands for the instance's name.
    type: dict
    required: true
  mode:
    description:
      - V(active_active) sends requests to every healthy server, to the one with the fewest open requests.
      - V(primary_standby) sends requests to standby servers only while no primary is healthy.
    type: string
    choices: [active_active, primary_standby]
    default: active_active
  standby:
    description: Hosts whose instances are all standby, besides the instances that say so themselves.
    type: list
    elements: string
    default: []
  ports:
    description: The port that the balancer opens for an instance name; without one, the instance's own.
    type: dict
    default: {}
  bind_address:
    description: The address that the balancer opens its ports on.
    type: string
    default: "*"
  stats_port:
    description: The port of the statistics page on loopback.
    type: int
    default: 8404
  slow_start:
    description: Seconds over which a server that came back gets its full share; V(0) for at once.
    type: int
    default: 30
  keep_alive:
    description: Seconds for which a client's unused connection stays open; less than the servers' own keep-alive.
    type: int
    default: 60
  agent:
    description: Whether each server's keeper is asked by HAProxy's agent-check, besides the health check.
    type: bool
    default: true
  agent_port:
    description: The keeper's port on the servers.
    type: int
    default: 9410
  fleet:
    description: Whether the balancer tells the keepers how many servers of a backend are left.
    type: bool
    default: true
  fleet_port:
    description: The port of that page.
    type: int
    default: 9411
  fleet_clients:
    description: Addresses and networks that may read that page, besides the servers and the balancer's own host.
    type: list
    elements: string
    default: []
  addresses:
    description:
      - For each host name among the servers' addresses its IP addresses, as M(steadfast.vllm.load_balancer_info)
        returns them. They tell the servers from others that ask for the fleet page.
    type: dict
    default: {}
seealso:
  - plugin: steadfast.vllm.balancer_backends
    plugin_type: filter
  - plugin: steadfast.vllm.health_check
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Show what the balancer would do
  ansible.builtin.debug:
    msg: >-
      {{ groups['vllm'] | steadfast.vllm.balancer_backends(hostvars)
         | steadfast.vllm.balancer(health_check={} | steadfast.vllm.health_check) }}
"""

RETURN = r"""
_value:
  description:
    - V(frontends), a list of V(name), V(bind) and V(backend).
    - V(backends), a list of V(name), V(servers), V(server_defaults), V(check), V(check_timeout), V(keep_alive)
      and V(standby).
    - V(binds), a list of V(name), V(address), V(port) and V(variable), everything that the balancer opens and what
      sets its port.
    - V(fleet), with V(bind), V(clients), V(askers) and V(backends), nothing without that page.
    - V(names), the addresses that have to be looked up, as they are host names.
  type: dict
"""

import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.steadfast.vllm.plugins.module_utils._balancer import ACTIVE_ACTIVE, BalancerError, view


def balancer(
    backends: list[dict[str, t.Any]],
    health_check: dict[str, t.Any],
    *,
    mode: str = ACTIVE_ACTIVE,
    standby: list[str] | None = None,
    ports: dict[str, t.Any] | None = None,
    bind_address: str = "*",
    stats_port: int = 8404,
    slow_start: int = 30,
    keep_alive: int = 60,
    agent: bool = True,
    agent_port: int = 9410,
    fleet: bool = True,
    fleet_port: int = 9411,
    fleet_clients: list[str] | None = None,
    addresses: dict[str, list[str]] | None = None,
) -> dict[str, t.Any]:
    options = {
        "mode": mode,
        "standby": standby or [],
        "ports": ports or {},
        "bind_address": bind_address,
        "stats_port": int(stats_port),
        "slow_start": int(slow_start),
        "keep_alive": int(keep_alive),
        "agent": agent,
        "agent_port": agent_port,
        "fleet": fleet,
        "fleet_port": fleet_port,
        "fleet_clients": fleet_clients or [],
        "addresses": addresses or {},
    }
    try:
        return view(backends, health_check, options)
    except BalancerError as error:
        raise AnsibleFilterError(f"the balancer cannot be built:\n{error}") from error


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., dict[str, t.Any]]]:
        return {"balancer": balancer}
