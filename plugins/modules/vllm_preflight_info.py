#!/usr/bin/python
# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module vllm_preflight_info: what stands in the way of a host's plan."""

from __future__ import annotations

DOCUMENTATION = r"""
module: vllm_preflight_info
short_description: What stands in the way of vLLM on a host, before anything is changed
version_added: "0.1.0"
description:
  - Looks at a host and tells everything that would make an installation or a start fail, in one round trip, with the
    cause, what was seen, and what to do.
  - Privileges, distribution, processor and service manager; units and ports that others hold; models that are paths;
    disk space, Python, C(/dev/shm), limits and the clock.
  - GPUs, their driver against the CUDA that vLLM is built for, GPU memory against the model's weights, its cache and
    what vLLM takes beside them, and who holds memory now; all of this only where O(cuda) is given. What is not known,
    such as the memory of a card that has no driver yet and is in no table, is not held against a host.
  - What vLLM compiles when it starts - compilers, headers, a CUDA toolkit whose parts fit, and whether
    C(start_timeout) is long enough for it; only where O(cuda) and O(release) are given.
  - A port that is held by a unit which this collection wrote, or by a server below the keeper's runner, is not a
    problem, so a host that serves passes.
  - Of a process that is in the way, it tells id, command name, user and unit, never arguments, which may hold secrets.
author: steadfast.vllm contributors (@steadfast-vllm)
extends_documentation_fragment:
  - steadfast.vllm.attributes.info
options:
  stage:
    description:
      - What is looked at. V(host) is all that can be known before anything is installed.
      - V(gpu) is what concerns GPUs, to be asked again once driver and models are there.
    type: str
    choices: [host, gpu]
    default: host
  instances:
    description: The planned instances, as P(steadfast.vllm.preflight_instances#filter) makes them.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: The instance's name.
        type: str
        required: true
      port:
        description: The port that it will listen at.
        type: int
        required: true
      host:
        description: The address that it will listen at. All addresses, if not given.
        type: str
      unit:
        description: The unit that may hold the port. O(instances[].name) with C(.service), if not given.
        type: str
      model_source:
        description: Whether the model is a V(path), which must be there now, or fetched later from the V(hub).
        type: str
        choices: [path, hub]
        default: hub
      model_path:
        description: The folder of the model. If O(instances[].model_source=path), it must be whole.
        type: str
      model:
        description: The model's name on the hub. Of some, it is known what they take before they are fetched.
        type: str
      gpus:
        description:
          - Indices or identifiers of the GPUs that the instance may use. All, if not given; an empty list is none.
        type: list
        elements: raw
      arguments:
        description:
          - Options of C(vllm serve). Looked at are those that decide how much memory it takes, such as
            C(tensor-parallel-size), C(max-model-len), C(gpu-memory-utilization), C(max-num-batched-tokens),
            C(max-num-seqs), C(limit-mm-per-prompt), C(mm-processor-kwargs) and C(enforce-eager).
            C(docs/preflight.md) lists them all.
        type: dict
        default: {}
      files:
        description: How many files the instance's limits let it open.
        type: int
      limits:
        description: Names of the limits that the instance sets. One that the manager cannot enforce is a problem.
        type: list
        elements: str
        default: []
      start_timeout:
        description: How many seconds a start may take. Not judged if not given.
        type: int
      compiling:
        description: What the instance's environment says of what vLLM compiles when it starts.
        type: dict
        suboptions:
          flashinfer_sampler:
            description: Whether vLLM may sample with FlashInfer, which compiles its sampler at the first start.
            type: bool
            default: true
          cuda_home:
            description: The folder of a CUDA toolkit. That of C(nvcc) on C(PATH) or C(/usr/local/cuda), if empty.
            type: str
            default: ""
          cache_root:
            description: Where vLLM keeps what it compiled; a leading C(~) is O(home). C(~/.cache/vllm), if empty.
            type: str
            default: ""
          flashinfer_base:
            description: Below which FlashInfer keeps what it compiled. O(home), if empty.
            type: str
            default: ""
          own_compilers:
            description: Whether it names compilers of its own, which are then not looked for.
            type: bool
            default: false
  service_manager:
    description: What will run the instances. Units are looked at if it is V(systemd).
    type: str
    choices: [systemd, supervisor, compose, tmux, screen]
    default: systemd
  service_user:
    description:
      - The user who must be able to read the models. One that does not exist yet is taken for a user who owns nothing.
    type: str
    default: vllm
  supported:
    description:
      - Distributions to accept in place of the collection's own list, C(ID) of C(/etc/os-release) to a list of
        C(VERSION_ID).
    type: dict
  disk:
    description: Space that will be used. What is wanted from one filesystem is added up.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Where. If it is not there yet, the nearest folder above it counts.
        type: path
        required: true
      need_bytes:
        description: How many bytes.
        type: int
        required: true
      for:
        description: What for, in words.
        type: str
      unless:
        description: Nothing is wanted if this path exists, because the space is used already.
        type: path
  packages:
    description: Packages of the distribution that will be wanted. Missing ones are told, and no problem.
    type: list
    elements: str
    default: []
  python:
    description: The interpreter for vLLM's environment, such as V(/usr/bin/python3). Not looked at if not given.
    type: path
  release:
    description:
      - The release of vLLM that will be started, such as V(/opt/vllm/current), which need not be there yet. What vLLM
        compiles when it starts is looked at only if this is given.
    type: path
  environment_python:
    description: The interpreter from which O(release) will be made if it is not there yet, for the headers of C.
    type: path
  home:
    description: The home of O(service_user), below which compiled kernels are kept.
    type: path
    default: /var/lib/vllm
  cuda:
    description:
      - The version of CUDA that vLLM is built for, such as V(13.0). Without it, GPUs are not looked at.
      - P(steadfast.vllm.lock_cuda#filter) reads it from a lock.
    type: str
    default: ""
  driver_version:
    description: The version of NVIDIA's driver that will be installed. If not given, the one that runs must do.
    type: str
    default: ""
  shm_bytes:
    description: How large C(/dev/shm) must be.
    type: int
    default: 167772160
  manifest_directory:
    description: Where the collection keeps what it wrote on the host.
    type: path
    default: /var/lib/steadfast
  fail:
    description: Whether to fail if there is a problem, with all of them in the message.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Refuse a host that could not serve, with all reasons at once
  steadfast.vllm.vllm_preflight_info:
    instances: "{{ vllm_instances | default(none) | steadfast.vllm.instances | steadfast.vllm.preflight_instances }}"
    disk:
      - {path: /opt/vllm, need_bytes: 12000000000, for: vLLM's environment, unless: /opt/vllm/current}
    python: /usr/bin/python3
    fail: true
  become: true

- name: Look at a host
  steadfast.vllm.vllm_preflight_info:
    instances:
      - {name: qwen3vl, port: 8000}
  register: preflight

- name: Ask whether the model fits into the GPU, before any of it is fetched
  steadfast.vllm.vllm_preflight_info:
    stage: gpu
    cuda: "13.0"
    instances:
      - name: qwen3vl
        port: 8000
        model: Qwen/Qwen3-VL-8B-Instruct
        arguments: {max-model-len: 32768, gpu-memory-utilization: 0.95}
  become: true

- name: Show what is wrong
  ansible.builtin.debug:
    msg: "{{ preflight.problems.splitlines() }}"
"""

RETURN = r"""
ok:
  description: Whether nothing stands in the way. Warnings do not.
  returned: success
  type: bool
  sample: false
problems:
  description: What stands in the way, a line each. Empty if nothing does.
  returned: always
  type: str
  sample: "port[qwen3vl]: port 8000 is taken by another program (0.0.0.0 port 8000: nginx (pid 812, user root,
    unit nginx.service)): stop that program, or give instance qwen3vl another port"
hints:
  description: Warnings, a line each. They are shown as warnings too.
  returned: always
  type: str
  sample: ""
packages_missing:
  description: Those of O(packages) that are not installed.
  returned: always
  type: list
  elements: str
  sample: [gcc]
managers:
  description: The process managers that run something of this collection on the host now.
  returned: always
  type: list
  elements: str
  sample: [systemd]
nvidia:
  description: Whether a PCI device of NVIDIA's is in the machine, with a driver or without.
  returned: always
  type: bool
  sample: true
user:
  description: The entry of O(service_user) in the user database, or none if there is no such user.
  returned: always
  type: dict
  sample: {group: vllm, home: /var/lib/vllm, shell: /usr/sbin/nologin}
findings:
  description: Everything that was looked at.
  returned: always
  type: list
  elements: dict
  contains:
    check:
      description: What was looked at, with the instance or path in brackets.
      type: str
      sample: port[qwen3vl]
    ok:
      description: Whether it is as it should be.
      type: bool
      sample: true
    severity:
      description: V(error), V(warning) or, if all is well, V(none).
      type: str
      sample: none
    cause:
      description: Why it is a problem.
      type: str
      sample: ""
    evidence:
      description: What was seen.
      type: str
      sample: port 8000 is free
    fix:
      description: What to do.
      type: str
      sample: ""
"""

import re
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.steadfast.vllm.plugins.module_utils import (
    _findings,
    _gpu_plan,
    _host,
    _packages,
    _preflight,
    _start_checks,
)


def argument_spec() -> dict[str, t.Any]:
    return {
        "stage": {"type": "str", "choices": ["host", "gpu"], "default": "host"},
        "instances": {
            "type": "list",
            "elements": "dict",
            "default": [],
            "options": {
                "name": {"type": "str", "required": True},
                "port": {"type": "int", "required": True},
                "host": {"type": "str"},
                "unit": {"type": "str"},
                "model_source": {"type": "str", "choices": ["path", "hub"], "default": "hub"},
                "model_path": {"type": "str"},
                "model": {"type": "str"},
                "gpus": {"type": "list", "elements": "raw"},
                "arguments": {"type": "dict", "default": {}},
                "files": {"type": "int"},
                "limits": {"type": "list", "elements": "str", "default": []},
                "start_timeout": {"type": "int"},
                "compiling": {
                    "type": "dict",
                    "options": {
                        "flashinfer_sampler": {"type": "bool", "default": True},
                        "cuda_home": {"type": "str", "default": ""},
                        "cache_root": {"type": "str", "default": ""},
                        "flashinfer_base": {"type": "str", "default": ""},
                        "own_compilers": {"type": "bool", "default": False},
                    },
                },
            },
            "required_if": [("model_source", "path", ("model_path",))],
        },
        "service_manager": {
            "type": "str",
            "choices": ["systemd", "supervisor", "compose", "tmux", "screen"],
            "default": "systemd",
        },
        "service_user": {"type": "str", "default": "vllm"},
        "supported": {"type": "dict"},
        "disk": {
            "type": "list",
            "elements": "dict",
            "default": [],
            "options": {
                "path": {"type": "path", "required": True},
                "need_bytes": {"type": "int", "required": True},
                "for": {"type": "str"},
                "unless": {"type": "path"},
            },
        },
        "packages": {"type": "list", "elements": "str", "default": []},
        "python": {"type": "path"},
        "release": {"type": "path"},
        "environment_python": {"type": "path"},
        "home": {"type": "path", "default": "/var/lib/vllm"},
        "cuda": {"type": "str", "default": ""},
        "driver_version": {"type": "str", "default": ""},
        "shm_bytes": {"type": "int", "default": _preflight.SHM_BYTES},
        "manifest_directory": {"type": "path", "default": "/var/lib/steadfast"},
        "fail": {"type": "bool", "default": False},
    }


def wanted(params: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """The options, nothing left open, and each version as text: YAML reads 12 and 22.04 as numbers."""
    instances = [
        {
            **item,
            "unit": item["unit"] or f"{item['name']}.service",
            "host": item["host"] or "::",
            "compiling": item["compiling"] or dict(_start_checks.USUAL),
            "arguments": _gpu_plan.arguments(item["arguments"]),
            # An index may have come as text, as options do that go through a template.
            "gpus": item["gpus"] and [int(gpu) if str(gpu).isdecimal() else str(gpu) for gpu in item["gpus"]],
        }
        for item in params["instances"]
    ]
    supported = {
        str(identity): [str(version) for version in (versions if isinstance(versions, list) else [versions])]
        for identity, versions in (params["supported"] or {}).items()
    }
    return {**params, "instances": instances, "supported": supported}


def main() -> None:
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    for option, example in (("cuda", "13.0"), ("driver_version", "580.95.05")):
        if not re.fullmatch(r"(\d+(\.\d+)*)?", module.params[option]):
            module.fail_json(msg=f"{option}: {module.params[option]} is no version: write numbers, such as {example}")
    plan = wanted(module.params)

    def run(argv: list[str]) -> tuple[int, str, str]:
        code, out, err = module.run_command(argv, handle_exceptions=False)
        return int(code), str(out), str(err)

    seen = _host.look(plan, run)
    findings = _preflight.judge(plan["stage"], plan, seen)
    problems, hints = _findings.told(findings, "error"), _findings.told(findings, "warning")
    for line in hints.splitlines():
        module.warn(line)
    result = {
        "findings": findings,
        "problems": problems,
        "hints": hints,
        "packages_missing": _packages.missing(plan["packages"], run),
        "user": _host.user(plan["service_user"]),
        "managers": seen["managers"],
        "nvidia": seen["nvidia"],
    }
    if problems and plan["fail"]:
        module.fail_json(msg=f"this host cannot be used as planned; nothing was changed:\n{problems}", **result)
    module.exit_json(changed=False, ok=not problems, **result)


if __name__ == "__main__":
    main()
