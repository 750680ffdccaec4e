# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter systemd_directives."""

from __future__ import annotations

DOCUMENTATION = r"""
name: systemd_directives
short_description: Directives of a systemd unit, checked and by section
version_added: "0.1.0"
description:
  - Turns a dictionary of sections and directives into pairs of directive and value for each section.
  - Values are taken as they are, without quoting. What would end a line or join it with the next one is refused, so
    that each value stays one directive.
author: steadfast.vllm contributors (@steadfast-vllm)
options:
  _input:
    description:
      - Sections (V(Unit), V(Service), V(Install)), in each directives, and for each a value or a list of values.
      - A list gives one line for each of its values. An empty string takes back what stood before, as systemd has it.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show directives
  ansible.builtin.debug:
    msg: "{{ {'Service': {'Nice': -5, 'DeviceAllow': ['char-drm', '/dev/kvm']}} | steadfast.vllm.systemd_directives }}"
    # => {"Unit": [], "Service": [["Nice", "-5"], ["DeviceAllow", "char-drm"], ["DeviceAllow", "/dev/kvm"]],
    #     "Install": []}
"""

RETURN = r"""
_value:
  description: For each section, also an empty one, its pairs of directive and value.
  type: dict
"""

from collections.abc import Callable

from ansible.errors import AnsibleFilterError
from ansible_collections.steadfast.vllm.plugins.module_utils import _systemd


def systemd_directives(value: object) -> dict[str, list[tuple[str, str]]]:
    """{section: [(directive, value)]}; AnsibleFilterError with everything that cannot stand in a unit."""
    try:
        return _systemd.directives(value)
    except ValueError as err:
        raise AnsibleFilterError(f"systemd_directives:\n{err}") from err


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., object]]:
        return {"systemd_directives": systemd_directives}
