# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter instances."""

from __future__ import annotations

DOCUMENTATION = r"""
name: instances
short_description: Complete, checked vLLM instances from what an inventory says
version_added: "0.1.0"
description:
  - Reads C(vllm_instances), fills in defaults, refuses what cannot work and adds everything that templates need.
    Roles of this collection render from its result and derive nothing by themselves.
  - All problems are reported at once, one to a line, each with its place, such as
    C(vllm_instances[1].prot - unknown key, did you mean port?). Values of O(_input[].api_key#filter) and
    O(_input[].env#filter) never stand in a message.
  - Whole numbers may be written as text, as templates give them. Booleans may not.
  - A key that is V(null) is as if it were not given.
author: steadfast.vllm contributors (@steadfast-vllm)
positional: defaults
options:
  _input:
    description: The instances of one host. V(null) is the one instance V(qwen3vl) of V(Qwen/Qwen3-VL-8B-Instruct).
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description:
          - Also the name of the unit, program, container and session. Small letters, digits and dashes.
          - Names of system services are refused.
        type: str
        required: true
      model:
        description: An absolute path on the host, or an id C(organisation/name) on the Hugging Face hub.
        type: str
        required: true
      revision:
        description: Commit, tag or branch of a model on the hub.
        type: str
      served_model_name:
        description: The name that clients ask for. What O(_input[].model#filter) says, if not given.
        type: str
      port:
        description: TCP port from 1024 to 65535.
        type: int
        default: 8000
      host:
        description: The address to listen at.
        type: str
        default: "0.0.0.0"
      gpus:
        description:
          - Indices as C(nvidia-smi) counts them, or identifiers C(GPU-...) or C(MIG-...). V(null) is all, V([]) none.
          - Instances may share a GPU if their O(_input[].gpu_memory_utilization#filter) add up to at most 1.
        type: list
        elements: raw
      tensor_parallel_size:
        description: Over how many GPUs each layer is split.
        type: int
        default: 1
      max_model_len:
        description: Tokens of prompt and answer together.
        type: int
        default: 1024
      gpu_memory_utilization:
        description: The share of each GPU's memory that the instance takes, above 0 and up to 1.
        type: float
        default: 0.95
      extra_args:
        description:
          - Further options of C(vllm serve), with dashes or underscores. V(null) takes one from the defaults back.
          - Options that have a key of their own here are refused.
        type: dict
        default: {}
      env:
        description: Environment variables, taken for secret. V(null) takes one from the defaults back.
        type: dict
        default: {}
      api_key:
        description: The key that clients must show.
        type: str
      limits:
        description:
          - V(memory) and V(memlock) (such as V(16G)), V(cpu) (such as V(4) or V(400%)), V(tasks), V(files),
            V(io_weight) and V(oom_score_adjust).
        type: dict
        default: {}
      logs:
        description: Where the manager writes log files itself, their V(size) (V(50M)) and V(count) (V(10)).
        type: dict
        default: {}
      start_timeout:
        description: Seconds from the start of the process to its first answer.
        type: int
        default: 600
      drain_timeout:
        description: Seconds that requests have to end when the instance is stopped.
        type: int
        default: 60
      standby:
        description: Whether the balancer sends requests only when all others are down.
        type: bool
        default: false
      ready_check:
        description:
          - What shows that the instance answers. V(health) is for models that complete no text, such as embeddings.
        type: str
        choices: [completion, health]
        default: completion
  defaults:
    description: Values for all instances, C(vllm_instance_defaults). Dictionaries are merged key by key.
    type: dict
    default: {}
  model_root:
    description: The folder on the host that holds models of the hub.
    type: str
    default: /var/lib/vllm/models
  serve_options:
    description:
      - What C(vllm serve) of the version that will run takes, as C(scripts/serve_options.py) prints it. An option in
        O(_input[].extra_args#filter) that it has not, or a value that it cannot be, is then refused here, and not by
        vLLM a minute after the server that ran was stopped for it.
      - Without it the options are left to vLLM.
    type: dict
    version_added: "0.1.0"
"""

EXAMPLES = r"""
- name: Show the guide's instance
  ansible.builtin.debug:
    msg: "{{ none | steadfast.vllm.instances }}"

- name: Show where the models of two instances lie
  ansible.builtin.debug:
    msg: "{{ mine | steadfast.vllm.instances({'gpu_memory_utilization': 0.9}) | map(attribute='model_path') }}"
  vars:
    mine:
      - {name: chat, model: Qwen/Qwen3-VL-8B-Instruct, gpus: [0], extra_args: {enable_prefix_caching: true}}
      - {name: own, model: /srv/models/own, port: 8001, gpus: [1]}
  # => ["/var/lib/vllm/models/Qwen--Qwen3-VL-8B-Instruct/main", "/srv/models/own"]
"""

RETURN = r"""
_value:
  description:
    - The instances in the order given, each with all keys of O(_input#filter) and with C(model_source), C(model_path),
      C(serve) (the file for C(vllm serve --config)), C(environment) (variables without secrets), C(secrets) (variables
      with secrets), C(config_file), C(env_file), C(unit), C(base_url), C(timeouts)
      and C(keeper).
  type: list
  elements: dict
"""

import typing as t
from collections.abc import Iterable, Mapping

from ansible.errors import AnsibleFilterError
from ansible_collections.steadfast.vllm.plugins.module_utils._instances import (
    DEFAULT_MODEL_ROOT,
    InputError,
    Undefined,
    normalise,
)

K = t.TypeVar("K")


def resolved(value: object) -> object:
    """A copy in which every template is rendered. One that cannot be, or a vault that cannot be opened, is Undefined
    with the reason: it is then reported with its place, beside everything else that is wrong."""
    if isinstance(value, Mapping):
        return dict(_items(value, value))
    if isinstance(value, list):
        return [item for _index, item in _items(value, range(len(value)))]
    return value


def _items(container: t.Any, keys: Iterable[K]) -> t.Iterator[tuple[K, object]]:
    for key in keys:
        try:
            item = resolved(container[key])
        # Rendering happens here, on access, and what it raises is private to ansible-core and differs by version.
        except Exception as error:
            item = Undefined(" ".join(str(error).split()))
        yield key, item


def instances(
    value: object = None,
    defaults: object = None,
    model_root: object = DEFAULT_MODEL_ROOT,
    serve_options: object = None,
) -> list[dict[str, t.Any]]:
    """The filter: the pure function with Ansible's error."""
    try:
        return normalise(resolved(value), resolved(defaults), model_root, resolved(serve_options))
    except InputError as error:
        raise AnsibleFilterError(f"the instances cannot be used:\n{error}") from error
    except ValueError as error:
        raise AnsibleFilterError(f"serve_options: {error}") from error


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, t.Callable[..., list[dict[str, t.Any]]]]:
        return {"instances": instances}
