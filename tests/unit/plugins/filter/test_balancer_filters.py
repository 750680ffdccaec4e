# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The balancer's filters: what they read of the inventory, and how they refuse."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.steadfast.vllm.plugins.filter.balancer import balancer
from ansible_collections.steadfast.vllm.plugins.filter.balancer_backends import balancer_backends
from ansible_collections.steadfast.vllm.plugins.module_utils._health_check import complete

MODEL = "Qwen/Qwen3-VL-8B-Instruct"


@pytest.mark.parametrize(
    ("variables", "address"),
    [
        ({}, "gpu1"),
        ({"ansible_host": "10.0.0.1"}, "10.0.0.1"),
        ({"ansible_host": "10.0.0.1", "vllm_address": "10.1.0.1"}, "10.1.0.1"),
    ],
)
def test_the_address_is_the_nearest_that_is_given(variables: dict[str, str], address: str) -> None:
    (backend,) = balancer_backends(["gpu1"], {"gpu1": variables})
    assert (backend["host"], backend["address"]) == ("gpu1", address)
    assert [instance["name"] for instance in backend["instances"]] == ["qwen3vl"]


def test_no_secret_leaves_the_instances() -> None:
    mine = [{"name": "chat", "model": MODEL, "api_key": "s3cret-key", "env": {"HF_TOKEN": "s3cret-token"}}]
    assert "s3cret" not in repr(balancer_backends(["gpu1"], {"gpu1": {"vllm_instances": mine}}))


def test_defaults_of_the_host_are_laid_under() -> None:
    variables = {"vllm_instances": [{"name": "chat", "model": MODEL}], "vllm_instance_defaults": {"port": 9000}}
    (backend,) = balancer_backends(["gpu1"], {"gpu1": variables})
    assert backend["instances"][0]["port"] == 9000


def test_all_hosts_problems_are_told_at_once_with_the_host() -> None:
    hostvars = {
        "gpu1": {"vllm_instances": [{"name": "chat", "model": MODEL, "prot": 1}]},
        "gpu2": {"vllm_instances": [{"name": "chat", "model": MODEL, "port": 70000}]},
    }
    with pytest.raises(AnsibleFilterError) as caught:
        balancer_backends(["gpu1", "gpu2", "gpu3"], hostvars)
    text = str(caught.value)
    assert "gpu1: vllm_instances[0].prot: unknown key" in text
    assert "gpu2: vllm_instances[0].port" in text
    assert "'gpu3' is no host of this inventory" in text


def test_the_filter_refuses_with_ansibles_error() -> None:
    with pytest.raises(AnsibleFilterError, match="no host with an instance"):
        balancer([], complete())
