#!/usr/bin/python
# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module uv_tool."""

from __future__ import annotations

DOCUMENTATION = r"""
module: uv_tool
short_description: A pinned uv on the host, checked by hash
version_added: "0.1.0"
description:
  - Installs one version of uv in C(<root>/<version>) and links C(uv) and C(uvx) to it.
  - It comes from the package index that pip is set up for, by a virtual environment and C(pip install
    --require-hashes), or from O(archive), a wheel or a tarball of uv with a checksum, for closed networks.
  - An interrupted installation is removed and made again. The links move only after the new uv has said its version.
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
  version:
    description: The version.
    type: str
    required: true
  requirements:
    description:
      - Content of a requirements file that locks uv with hashes. Needed without O(archive).
    type: str
  archive:
    description: Path on the host, or URL, of a wheel or a tarball of uv.
    type: str
  checksum:
    description: What the archive must have, as V(sha256:<64 digits>). Needed with O(archive).
    type: str
  root:
    description: Folder of the installed versions.
    type: path
    default: /opt/uv
  links:
    description: Folder in which C(uv) and C(uvx) are linked.
    type: path
    default: /usr/local/bin
  python:
    description: The Python that makes the virtual environment.
    type: path
    default: /usr/bin/python3
  environment:
    description:
      - A dictionary of settings for pip, such as C(PIP_INDEX_URL) or C(HTTPS_PROXY). Given as JSON text it is kept out
        of every output as a whole.
    type: json
    default: "{}"
"""

EXAMPLES = r"""
- name: Install uv from the package index
  steadfast.vllm.uv_tool:
    version: "{{ uv_version }}"
    requirements: "{{ lookup('ansible.builtin.file', 'requirements.txt') }}"

- name: Install uv in a closed network
  steadfast.vllm.uv_tool:
    version: "{{ uv_version }}"
    archive: https://files.example.org/uv-x86_64-unknown-linux-gnu.tar.gz
    checksum: "sha256:{{ uv_archive_sha256 }}"
"""

RETURN = r"""
program:
  description: The installed uv.
  type: str
  returned: success
  sample: /opt/uv/0.13.9/bin/uv
version:
  description: Its version.
  type: str
  returned: success
  sample: 0.13.9
"""

import json

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.steadfast.vllm.plugins.module_utils._command import runner
from ansible_collections.steadfast.vllm.plugins.module_utils._uv import Problem, Request, Tool


def main() -> None:
    """Wire the options to the work."""
    module = AnsibleModule(
        argument_spec={
            "version": {"type": "str", "required": True},
            "requirements": {"type": "str"},
            "archive": {"type": "str"},
            "checksum": {"type": "str", "no_log": False},
            "root": {"type": "path", "default": "/opt/uv"},
            "links": {"type": "path", "default": "/usr/local/bin"},
            "python": {"type": "path", "default": "/usr/bin/python3"},
            "environment": {"type": "json", "default": "{}", "no_log": True},
        },
        required_one_of=[("requirements", "archive")],
        required_by={"archive": ("checksum",)},
        supports_check_mode=True,
    )
    options = dict(module.params)
    try:
        settings = json.loads(options.pop("environment"))
        environment = {str(name): str(value) for name, value in settings.items()}
    except (ValueError, AttributeError):
        module.fail_json(msg="uv_tool: environment: not a dictionary of settings")
    try:
        tool = Tool(Request(**options, environment=environment), runner(module.run_command))
        result = tool.ensure(check_mode=module.check_mode)
    except Problem as err:
        module.fail_json(msg=f"uv_tool: {err}")
    except OSError as err:
        module.fail_json(msg=f"uv_tool: {err.filename or module.params['root']}: {err.strerror or err}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
