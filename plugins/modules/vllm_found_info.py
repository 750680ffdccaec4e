#!/usr/bin/python
# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module vllm_found_info: vLLM servers that run on a host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: vllm_found_info
short_description: Which vLLM servers run on a host, and the instance that each would be
version_added: "0.1.0"
description:
  - Finds C(vllm serve) and C(python -m vllm.entrypoints.openai.api_server) however they were started, by nohup, screen,
    tmux, a unit of systemd, docker or podman, and tells how, by whom, since when, with what model and where it listens.
  - Writes for each the entry of C(vllm_instances) that says the same, checked as an inventory's entries are. What a
    server was not told is written out as vLLM 0.32 has it by default, because this collection's defaults are others.
  - Says why a server cannot be taken over, where it cannot.
  - No secret leaves the host. Values after options such as C(--api-key) are blanked, of variables that may hold a
    secret only the name is told, and the entry names a variable of the inventory in its place.
author: steadfast.vllm contributors (@steadfast-vllm)
extends_documentation_fragment:
  - steadfast.vllm.attributes.info
options:
  model_root:
    description: The folder of models of a hub, C(vllm_model_root) of role P(steadfast.vllm.vllm#role).
    type: path
    default: /var/lib/vllm/models
  service_user:
    description: The user who will have to read the models.
    type: str
    default: vllm
  names:
    description:
      - Names for instances, a dictionary of port to name. Without one the name comes from the model.
    type: dict
    default: {}
  taken:
    description: Names that other instances of the host have.
    type: list
    elements: str
    default: []
  manifest_directory:
    description: Where the collection keeps what it wrote on the host.
    type: path
    default: /var/lib/steadfast
seealso:
  - module: steadfast.vllm.vllm_takeover
"""

EXAMPLES = r"""
- name: Look for servers that were started by hand
  steadfast.vllm.vllm_found_info:
  become: true
  register: found

- name: Show them
  ansible.builtin.debug:
    msg: "{{ found.report }}"
"""

RETURN = r"""
servers:
  description: The servers, the oldest process first.
  returned: success
  type: list
  elements: dict
  contains:
    identity:
      description: Names the very process, for M(steadfast.vllm.vllm_takeover).
      type: str
      sample: "4711:8312345"
    pid:
      description: Its process.
      type: int
      sample: 4711
    command:
      description: Its command line, secrets blanked.
      type: list
      elements: str
      sample: [vllm, serve, Qwen/Qwen3-VL-8B-Instruct, --api-key, "****"]
    user:
      description: Whose it is.
      type: str
      sample: ada
    directory:
      description: Its working directory.
      type: str
      sample: /home/ada
    started:
      description: How it was started, in words.
      type: str
      sample: in the background with nohup
    since:
      description: Since when it runs.
      type: str
      sample: "2026-11-22 06:00:00 UTC"
    launch:
      description: How it was started. Its C(kind) is V(unit), V(user-unit), V(container), V(pod),
        V(tmux), V(screen), V(supervisor), V(terminal) or V(background).
      type: dict
      sample: {kind: background, name: "", runtime: ""}
    listening:
      description: Where it listens.
      type: list
      elements: str
      sample: [0.0.0.0 port 8000]
    output:
      description: Where its standard output goes.
      type: str
      sample: /home/ada/nohup.out
    environment:
      description: Variables that are known to be harmless.
      type: dict
      sample: {CUDA_VISIBLE_DEVICES: "0"}
    secret_variables:
      description: Names of variables that may hold secrets.
      type: list
      elements: str
      sample: [HF_TOKEN]
    model:
      description: Where its model lies. Its C(kind) is V(path), V(snapshot) (of a hub's cache) or
        V(missing).
      type: dict
      sample: {kind: path, path: /srv/models/mine, repository: "", commit: ""}
    managed:
      description: The instance that it is, if this collection runs it already. Then there is no entry.
      type: str
      sample: ""
    entry:
      description: The entry of C(vllm_instances) that says the same.
      type: dict
      sample: {name: mine, model: /srv/models/mine, port: 8000}
    secrets:
      description: What of the entry is secret (C(key)), which variable it names in its place, and
        where the server has it from.
      type: list
      elements: dict
      sample: [{key: api_key, variable: vault_mine_api_key, source: --api-key}]
    problems:
      description: Why it cannot be taken over. Empty if it can.
      type: list
      elements: str
      sample: []
    notes:
      description: What will be different.
      type: list
      elements: str
      sample: []
report:
  description: The same for people, a line each thing.
  returned: success
  type: list
  elements: str
  sample: [no vLLM server runs here]
"""

import os
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.steadfast.vllm.plugins.module_utils import _adopt_found
from ansible_collections.steadfast.vllm.plugins.module_utils._command import runner


def argument_spec() -> dict[str, t.Any]:
    return {
        "model_root": {"type": "path", "default": "/var/lib/vllm/models"},
        "service_user": {"type": "str", "default": "vllm"},
        "names": {"type": "dict", "default": {}},
        "taken": {"type": "list", "elements": "str", "default": []},
        "manifest_directory": {"type": "path", "default": "/var/lib/steadfast"},
    }


def main() -> None:
    """Wire the options to the look."""
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    if os.geteuid() != 0:
        module.fail_json(msg="vllm_found_info: only root sees the processes of all users: set become: true")
    options = dict(module.params)
    options["names"] = {str(port): str(name) for port, name in options["names"].items()}
    found = _adopt_found.Finder(_adopt_found.Wanted(**options), runner(module.run_command)).find()
    servers = [_adopt_found.result(one) for one in found]
    module.exit_json(changed=False, servers=servers, report=_adopt_found.report(servers))


if __name__ == "__main__":
    main()
