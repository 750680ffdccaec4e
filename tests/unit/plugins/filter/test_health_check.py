# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter steadfast.vllm.health_check."""

from __future__ import annotations

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from ansible_collections.steadfast.vllm.plugins.filter import health_check as plugin
from ansible_collections.steadfast.vllm.plugins.module_utils._health_check import GUIDE_DEFAULTS

FILTER = plugin.FilterModule().filters()["health_check"]


def test_given_keys_are_laid_over_the_guide() -> None:
    assert FILTER({"interval": 5, "timeout": 2}) == {**GUIDE_DEFAULTS, "interval": 5, "timeout": 2}
    assert FILTER(None) == GUIDE_DEFAULTS


def test_all_problems_stand_in_one_error() -> None:
    with pytest.raises(AnsibleFilterError) as caught:
        FILTER({"path": "health", "port": 70000})
    assert "vllm_health_check.path: 'health'" in str(caught.value)
    assert "vllm_health_check.port: 70000" in str(caught.value)


def test_the_place_can_be_named() -> None:
    with pytest.raises(AnsibleFilterError, match=r"load_balancer_health_check\.port"):
        FILTER({"port": 0}, place="load_balancer_health_check")


def test_the_documentation_is_yaml_and_names_every_option() -> None:
    documentation = yaml.safe_load(plugin.DOCUMENTATION)
    assert set(documentation["options"]) == {"_input", "place"}
    assert yaml.safe_load(plugin.EXAMPLES)
    assert yaml.safe_load(plugin.RETURN)
