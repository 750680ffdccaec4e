#!/usr/bin/python
# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module vllm_models."""

from __future__ import annotations

DOCUMENTATION = r"""
module: vllm_models
short_description: Models on the host, fetched whole from a hub or checked where they lie
version_added: "0.1.0"
description:
  - Fetches models of a hub by C(huggingface_hub) of vLLM's own release, as the user of the service. Their size is asked
    for first and compared with the free disk space; an interrupted fetch goes on where it stopped.
  - A model appears at its path whole or not at all, as a link to C(.snapshots/<commit>) beside it. The commit that a
    branch stood for is kept; a host that has the model whole asks no network, so a branch that moves is not followed.
    Name another revision to move.
  - Models given by path are only checked.
  - Snapshots that no instance uses any more stay until somebody removes them, since they are costly to fetch.
author: steadfast.vllm contributors (@steadfast-vllm)
extends_documentation_fragment: [steadfast.vllm.attributes]
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  models:
    description: The models.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: Where it lies, or is to lie.
        type: path
        required: true
      source:
        description: Whether it comes from a hub or is only checked.
        type: str
        choices: [hub, path]
        required: true
      model:
        description: The hub id.
        type: str
      revision:
        description: Commit, tag or branch on the hub. The default is the branch V(main).
        type: str
  python:
    description: The Python of an environment that has huggingface_hub.
    type: path
    default: /opt/vllm/current/bin/python
  user:
    description: The user that owns the models and must be able to read them.
    type: str
    default: vllm
  endpoint:
    description: Address of the hub, if it is not the public one.
    type: str
    default: ""
  token:
    description: Token for the hub. It is never shown and stands in no argument of a process.
    type: str
    default: ""
  ignore:
    description: Patterns of files that are left out, such as V(original/*).
    type: list
    elements: str
    default: []
  environment:
    description:
      - A dictionary of settings for the fetch, such as C(HTTPS_PROXY). Given as JSON text it is kept out of every
        output as a whole.
    type: json
    default: "{}"
"""

EXAMPLES = r"""
- name: Have the models
  steadfast.vllm.vllm_models:
    models:
      - path: /var/lib/vllm/models/Qwen--Qwen3-VL-8B-Instruct/main
        source: hub
        model: Qwen/Qwen3-VL-8B-Instruct
      - path: /srv/models/mine
        source: path
    token: "{{ vllm_hub_token }}"
"""

RETURN = r"""
commits:
  description: For the path of each model of a hub, the commit that lies there, or V(to be fetched) in check mode.
  type: dict
  returned: success
  sample: {/var/lib/vllm/models/Qwen--Qwen3-VL-8B-Instruct/main: 0c351dd01ed87e9c1b53cbc748cba10e6187ff3b}
fetched:
  description: Paths of the models that came in this run.
  type: list
  elements: str
  returned: success
"""

import json

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.steadfast.vllm.plugins.module_utils._command import runner
from ansible_collections.steadfast.vllm.plugins.module_utils._models import Models, Problem, Request


def main() -> None:
    """Wire the options to the work."""
    module = AnsibleModule(
        argument_spec={
            "models": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "path": {"type": "path", "required": True},
                    "source": {"type": "str", "choices": ["hub", "path"], "required": True},
                    "model": {"type": "str"},
                    "revision": {"type": "str"},
                },
                "required_if": [("source", "hub", ["model"])],
            },
            "python": {"type": "path", "default": "/opt/vllm/current/bin/python"},
            "user": {"type": "str", "default": "vllm"},
            "endpoint": {"type": "str", "default": ""},
            "token": {"type": "str", "default": "", "no_log": True},
            "ignore": {"type": "list", "elements": "str", "default": []},
            "environment": {"type": "json", "default": "{}", "no_log": True},
        },
        supports_check_mode=True,
    )
    options = dict(module.params)
    try:
        settings = json.loads(options.pop("environment"))
        environment = {str(name): str(value) for name, value in settings.items()}
    except (ValueError, AttributeError):
        module.fail_json(msg="vllm_models: environment: not a dictionary of settings")
    try:
        models = Models(Request(**options, environment=environment), runner(module.run_command))
        result = models.ensure(check_mode=module.check_mode)
    except Problem as err:
        module.fail_json(msg=f"vllm_models: {err}")
    except OSError as err:
        module.fail_json(msg=f"vllm_models: {err.filename or ''}: {err.strerror or err}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
