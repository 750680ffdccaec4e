# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter systemd_quote."""

from __future__ import annotations

DOCUMENTATION = r"""
name: systemd_quote
short_description: One quoted word of a systemd unit file
version_added: "0.1.0"
description:
  - Quotes a string so that systemd reads it back as it is, with specifiers and escapes kept literal.
author: steadfast.vllm contributors (@steadfast-vllm)
options:
  _input:
    description: The string.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Show a line of a unit file
  ansible.builtin.debug:
    msg: "Environment={{ 'GREETING=100% \"sure\"' | steadfast.vllm.systemd_quote }}"
"""

RETURN = r"""
_value:
  description: The quoted word.
  type: str
"""

from collections.abc import Callable

from ansible.errors import AnsibleFilterError
from ansible_collections.steadfast.vllm.plugins.module_utils import _systemd


def systemd_quote(value: object) -> str:
    """Quote as one word of a unit file; AnsibleFilterError if it cannot stand in one."""
    try:
        return _systemd.quote(str(value))
    except ValueError as err:
        raise AnsibleFilterError(f"systemd_quote: {err}") from err


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., object]]:
        return {"systemd_quote": systemd_quote}
