# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter systemd_hardening."""

from __future__ import annotations

DOCUMENTATION = r"""
name: systemd_hardening
short_description: Directives that keep a service in its bounds
version_added: "0.1.0"
description:
  - Turns the switches of O(ignore:service_hardening) of role P(steadfast.vllm.service#role) into directives of a unit's
    C([Service]) section. A switch that is not given is on; an unknown one is refused.
author: steadfast.vllm contributors (@steadfast-vllm)
options:
  _input:
    description: Switches, each V(true) or V(false). The guide on hardening lists them.
    type: dict
    required: true
  instance:
    description: An instance that went through P(steadfast.vllm.instances#filter).
    type: dict
    required: true
  home:
    description: The folder that the service may write to.
    type: path
    default: /var/lib/vllm
  devices:
    description:
      - Devices allowed besides NVIDIA's, as nodes (C(/dev/infiniband/rdma_cm)) or as groups of C(/proc/devices)
        (C(char-infiniband_verbs)), optionally with the access behind a space (C(rw) if none is given).
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Show directives
  ansible.builtin.debug:
    msg: "{{ {'private_users': false} | steadfast.vllm.systemd_hardening(instance) }}"
  vars:
    instance: "{{ [{'name': 'mine', 'model': '/srv/models/mine'}] | steadfast.vllm.instances | first }}"
    # => [["RestrictAddressFamilies", "AF_UNIX AF_INET AF_INET6 AF_NETLINK"], ["CapabilityBoundingSet", ""], ...]
"""

RETURN = r"""
_value:
  description: Pairs of directive and value.
  type: list
  elements: list
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.steadfast.vllm.plugins.module_utils import _systemd_hardening


def systemd_hardening(
    switches: object, instance: Mapping[str, Any], home: str = "/var/lib/vllm", devices: Sequence[str] = ()
) -> list[tuple[str, str]]:
    """[(directive, value)]; AnsibleFilterError with everything that is wrong."""
    try:
        return _systemd_hardening.directives(switches, instance, home, devices)
    except ValueError as err:
        raise AnsibleFilterError(f"systemd_hardening:\n{err}") from err


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., object]]:
        return {"systemd_hardening": systemd_hardening}
