# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter service_files."""

from __future__ import annotations

DOCUMENTATION = r"""
name: service_files
short_description: What a process manager needs on a host to run the instances
version_added: "0.1.0"
description:
  - Lists the files, the places that nobody else may fill and the actions for M(steadfast.vllm.managed_files).
  - Each file remembers how to end its instance before it goes, so changing the manager leaves nothing behind.
author: steadfast.vllm contributors (@steadfast-vllm)
positional: manager, options
options:
  _input:
    description: Complete instances, from P(steadfast.vllm.instances#filter).
    type: list
    elements: dict
    required: true
  manager:
    description: The process manager.
    type: str
    required: true
  options:
    description: What the manager's files need beside the instances; C(keeper) is the keeper's command.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Where the units go
  ansible.builtin.debug:
    msg: "{{ (vllm_instances | steadfast.vllm.instances
              | steadfast.vllm.service_files('systemd', {'keeper': '/usr/local/bin/vllm-keeper'})).files
             | map(attribute='path') }}"
"""

RETURN = r"""
_value:
  description: The keys C(files), C(exclusive) and C(actions), as M(steadfast.vllm.managed_files) takes them.
  type: dict
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.steadfast.vllm.plugins.module_utils import _service_files


def service_files(instances: Sequence[Mapping[str, Any]], manager: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The filter."""
    if manager not in _service_files.MANAGERS:
        known = ", ".join(_service_files.MANAGERS)
        raise AnsibleFilterError(f"service_manager: {manager!r} is no process manager of this collection: use {known}")
    try:
        return _service_files.plan(instances, manager, options)
    except ValueError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    """Makes the filter known to Ansible."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name to function."""
        return {"service_files": service_files}
