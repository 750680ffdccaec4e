# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The options that say which target groups are meant; the arguments stand in module_utils/_target_group_names.py."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  target_groups:
    description:
      - Names or ARNs of target groups, mixed as you like; all of them are read and changed in one task.
      - A group that does not exist fails the task, before anything is changed.
      - Exactly one of O(target_groups), O(load_balancer) and O(tags) must be given.
    type: list
    elements: str
  load_balancer:
    description: Name or ARN of an Application, Network or Gateway Load Balancer, for all target groups that it uses.
    type: str
  tags:
    description:
      - Tags, for all target groups of the region that have every one of them, with these values.
      - This costs one call for each 400 target groups of the region and one for each 20; names are cheaper.
    type: dict
"""
