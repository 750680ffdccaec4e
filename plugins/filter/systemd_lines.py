# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter systemd_lines."""

from __future__ import annotations

DOCUMENTATION = r"""
name: systemd_lines
short_description: Lines of a unit that the systemd of a host takes
version_added: "0.1.0"
description:
  - Turns pairs of directive and value into lines of a unit. A directive, or a value of one, that is newer than the
    host's systemd is left out, with a comment in its place, so that systemd has nothing to warn about.
  - Knows the directives of services that came with systemd 250 to 257. Every other one is taken as it is.
author: steadfast.vllm contributors (@steadfast-vllm)
options:
  _input:
    description: Pairs of directive and value.
    type: list
    elements: list
    required: true
  version:
    description: The version of the host's systemd. Without one, the oldest that is supported, V(249).
    type: int
"""

EXAMPLES = r"""
- name: Show lines
  ansible.builtin.debug:
    msg: "{{ [['NoNewPrivileges', 'yes'], ['RestartSteps', '5']] | steadfast.vllm.systemd_lines(252) }}"
    # => ["NoNewPrivileges=yes", "# RestartSteps= is left out: it needs systemd 254 or later."]
"""

RETURN = r"""
_value:
  description: Lines of a unit.
  type: list
  elements: str
"""

from collections.abc import Callable, Iterable

from ansible.errors import AnsibleFilterError
from ansible_collections.steadfast.vllm.plugins.module_utils import _systemd_versions


def systemd_lines(pairs: Iterable[tuple[str, str]], version: int | None = None) -> list[str]:
    """The pairs as lines; AnsibleFilterError for a version that is no number."""
    try:
        number = None if version is None else int(version)
    except (TypeError, ValueError) as err:
        raise AnsibleFilterError(f"systemd_lines: {version!r} is not a version of systemd, such as 252") from err
    return _systemd_versions.lines(pairs, number)


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., object]]:
        return {"systemd_lines": systemd_lines}
