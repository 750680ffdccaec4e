# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A module's own way to run programs, for tests that call what is behind the module."""

from __future__ import annotations

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args
from ansible_collections.steadfast.vllm.plugins.module_utils._command import Runner, runner


def real_runner() -> Runner:
    with patch_module_args({}):
        return runner(AnsibleModule({}).run_command)
