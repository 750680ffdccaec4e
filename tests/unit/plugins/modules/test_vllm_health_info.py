# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options of vllm_health_info; what it finds is tests/integration's."""

from __future__ import annotations

import json
import typing as t

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.steadfast.vllm.plugins.module_utils._exchange import target
from ansible_collections.steadfast.vllm.plugins.modules import vllm_health_info as module


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"url": "gpu1:8000"}, "url: 'gpu1:8000' is no URL"),
        ({"url": "http://ada:hunter2@gpu1"}, "url: holds a user or password"),
        ({"api_key": "sk hunter2"}, "api_key: holds spaces"),
        ({"timeout": 0}, "timeout: 0: give more than 0"),
        ({"canary_timeout": 1e9}, "canary_timeout: 1e+09"),
        ({"keeper_port": 0}, "keeper_port: 0 is no port"),
        ({"keeper_url": "x"}, "keeper_url: 'x' is no URL"),
        ({"keeper_port": 9410, "keeper_url": "http://x"}, "mutually exclusive"),
        ({"keeper": True}, "name"),
        ({"name": "../x"}, "name: '../x' is no name"),
        ({"name": "--help"}, "name: '--help' is no name"),
        ({"balancer_path": "health"}, "balancer_path: 'health' is no path"),
        ({"url": "https://127.0.0.1:1", "ca_path": "/nowhere.pem"}, "ca_path: /nowhere.pem cannot be read"),
        ({"canary": "movie"}, "canary"),
    ],
)
def test_a_wrong_option_is_told_with_its_place(
    options: dict[str, t.Any], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with patch_module_args(options), pytest.raises(SystemExit) as ended:
        module.main()
    result = json.loads(capsys.readouterr().out)
    assert ended.value.code == 1 and result["failed"] is True
    assert says in result["msg"] and "hunter2" not in result["msg"]


@pytest.mark.parametrize(
    ("options", "url"),
    [
        ({}, ""),
        ({"keeper_port": 9410}, "http://gpu1:9410/ready"),
        ({"keeper_port": 9410, "name": "q"}, "http://gpu1:9410/ready/q"),
        ({"keeper_url": "https://[::1]:9410/", "name": "q"}, "https://[::1]:9410/ready/q"),
        ({"keeper_url": "http://gpu1/keeper"}, "http://gpu1:80/keeper/ready"),
    ],
)
def test_where_the_keeper_s_port_is(options: dict[str, t.Any], url: str) -> None:
    params = {"keeper_port": None, "keeper_url": None, "name": None, **options}
    # The keeper speaks no TLS, and knows no prefix, whatever the server does.
    assert module.ready_url(params, target("https://gpu1:8000/prefix", "url")) == url
