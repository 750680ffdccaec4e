# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter systemd_limits."""

from __future__ import annotations

DOCUMENTATION = r"""
name: systemd_limits
short_description: Resource limits of an instance as directives of a systemd unit
version_added: "0.1.0"
description:
  - Turns the C(limits) of a normalised instance into directives of a unit's C([Service]) section.
author: steadfast.vllm contributors (@steadfast-vllm)
options:
  _input:
    description: The C(limits) dictionary of an instance that went through P(steadfast.vllm.instances#filter).
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show directives
  ansible.builtin.debug:
    msg: "{{ {'memory': '64G', 'tasks': 4096} | steadfast.vllm.systemd_limits }}"
    # => [["MemoryMax", "64G"], ["TasksMax", "4096"]]
"""

RETURN = r"""
_value:
  description: Pairs of directive and value.
  type: list
  elements: list
"""

from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.steadfast.vllm.plugins.module_utils import _systemd


def systemd_limits(limits: Mapping[str, Any]) -> list[tuple[str, str]]:
    """[(directive, value)] of a normalised instance's limits."""
    return _systemd.limit_directives(limits)


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., object]]:
        return {"systemd_limits": systemd_limits}
