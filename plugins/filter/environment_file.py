# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter environment_file."""

from __future__ import annotations

DOCUMENTATION = r"""
name: environment_file
short_description: A dictionary as a file of environment variables
version_added: "0.1.0"
description:
  - Writes variables so that systemd's C(EnvironmentFile=) reads each value back as it is, with quotes, dollars,
    backslashes, percents and line breaks.
author: steadfast.vllm contributors (@steadfast-vllm)
options:
  _input:
    description: Names and values.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Leave a file of environment variables
  ansible.builtin.copy:
    content: "{{ my_variables | steadfast.vllm.environment_file }}"
    dest: /etc/vllm/mine.env
    mode: "0600"
"""

RETURN = r"""
_value:
  description: The file's content.
  type: str
"""

from collections.abc import Callable, Mapping

from ansible.errors import AnsibleFilterError
from ansible_collections.steadfast.vllm.plugins.module_utils import _environment_file


def environment_file(variables: object) -> str:
    """The file's content; AnsibleFilterError names the variable that cannot stand in it."""
    if not isinstance(variables, Mapping):
        raise AnsibleFilterError("environment_file: expected a dictionary of names and values")
    try:
        return _environment_file.render(variables)
    except ValueError as err:
        raise AnsibleFilterError(f"environment_file: {err}") from err


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., object]]:
        return {"environment_file": environment_file}
