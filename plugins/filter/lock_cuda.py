# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter lock_cuda."""

from __future__ import annotations

DOCUMENTATION = r"""
name: lock_cuda
short_description: The version of CUDA that a lock of vLLM brings
version_added: "0.1.0"
description:
  - Reads the version of NVIDIA's CUDA runtime from a requirements file, as the markers in it hold for Linux.
  - Empty for a lock that brings none, such as one of vLLM for CPU.
author: steadfast.vllm contributors (@steadfast-vllm)
options:
  _input:
    description: The content of the lock.
    type: str
    required: true
  machine:
    description: The processor that it is for, as C(ansible_facts.machine) has it.
    type: str
    default: x86_64
"""

EXAMPLES = r"""
- name: Show which CUDA a lock is for
  ansible.builtin.debug:
    msg: "{{ 'nvidia-cuda-runtime==13.0.96 ; sys_platform == \"linux\"' | steadfast.vllm.lock_cuda }}"
  # => 13.0
"""

RETURN = r"""
_value:
  description: Major and minor version, such as V(13.0), or an empty string.
  type: str
"""

import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.steadfast.vllm.plugins.plugin_utils import _lock


def lock_cuda(text: str, machine: str = "x86_64") -> str:
    """The filter: the pure function, its error as Ansible shows it."""
    try:
        return _lock.cuda(text, machine)
    except (_lock.LockError, _lock.LibraryMissing) as failure:
        raise AnsibleFilterError(f"lock_cuda: {failure}") from failure


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, t.Callable[..., str]]:
        return {"lock_cuda": lock_cuda}
