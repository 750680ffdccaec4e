# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter preflight_instances."""

from __future__ import annotations

DOCUMENTATION = r"""
name: preflight_instances
short_description: What a preflight needs to know of instances
version_added: "0.1.0"
description:
  - Takes from normalised instances what M(steadfast.vllm.vllm_preflight_info) asks for.
  - Nothing of it is secret, so that the module's arguments may be shown and logged.
author: steadfast.vllm contributors (@steadfast-vllm)
options:
  _input:
    description: Instances that went through P(steadfast.vllm.instances#filter).
    type: list
    elements: dict
    required: true
"""

EXAMPLES = r"""
- name: Show what the preflight is told
  ansible.builtin.debug:
    msg: "{{ none | steadfast.vllm.instances | steadfast.vllm.preflight_instances }}"
  # => [{"name": "qwen3vl", "port": 8000, "host": "0.0.0.0", "unit": "qwen3vl.service",
  #      "model": "Qwen/Qwen3-VL-8B-Instruct", "model_source": "hub",
  #      "model_path": "/var/lib/vllm/models/Qwen--Qwen3-VL-8B-Instruct/main", "gpus": null,
  #      "files": null, "limits": [], "start_timeout": 600,
  #      "compiling": {"flashinfer_sampler": true, "cuda_home": "", "cache_root": "", "flashinfer_base": "",
  #                    "own_compilers": false},
  #      "arguments": {"tensor-parallel-size": 1, "max-model-len": 1024, "gpu-memory-utilization": 0.95}}]
"""

RETURN = r"""
_value:
  description: Dictionaries for O(steadfast.vllm.vllm_preflight_info#module:instances).
  type: list
  elements: dict
"""

import typing as t
from collections.abc import Mapping, Sequence

from ansible_collections.steadfast.vllm.plugins.module_utils._preflight import plan


def preflight_instances(instances: Sequence[Mapping[str, t.Any]]) -> list[dict[str, t.Any]]:
    """The filter: the pure function as it is."""
    return plan(instances)


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, t.Callable[..., list[dict[str, t.Any]]]]:
        return {"preflight_instances": preflight_instances}
