# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What podman is told, and what makes a host anew."""

from __future__ import annotations

from typing import Any

import pytest
from labkit import hosts
from labkit.work import LabError

LIMITS = hosts.Limits(20000, 32768)
MOUNTS = (("/c/models", "/srv/lab/models", "ro"),)
GPU1 = next(host for host in hosts.KNOWN if host.name == "gpu1")


def argv(**changes: Any) -> list[str]:
    given: dict[str, Any] = {
        "lab": hosts.Lab(),
        "host": GPU1,
        "image": "i:1",
        "limits": LIMITS,
        "mounts": MOUNTS,
        **changes,
    }
    return hosts.run_argv(**given)


def test_a_host_has_its_address_limits_and_mounts() -> None:
    told = argv()
    assert told[-1] == "i:1"
    for option in (
        "--name=gpu1",
        "--network=steadfast:ip=10.87.42.11,alias=gpu1",
        "--cgroupns=private",
        "--systemd=false",
        "--ulimit=nofile=20000:20000",
        "--pids-limit=-1",
        "--shm-size=1g",
        "--restart=always",
        "--volume=/c/models:/srv/lab/models:ro",
    ):
        assert option in told


def test_another_lab_shares_nothing() -> None:
    other = set(argv(lab=hosts.Lab("molecule", "10.87.43")))
    assert {"--name=molecule-gpu1", "--network=molecule:ip=10.87.43.11,alias=gpu1"} <= other
    assert not {option for option in other & set(argv()) if "steadfast.lab=" in option or "--name=" in option}


@pytest.mark.parametrize(
    "change",
    [{"image": "i:2"}, {"mounts": ()}, {"limits": hosts.Limits(1, 1)}, {"content": "x"}],
    ids=lambda change: next(iter(change)),
)
def test_a_change_makes_the_host_anew(change: dict[str, Any]) -> None:
    assert hosts.spec(argv()) == hosts.spec(argv())
    assert hosts.spec(argv(**change)) != hosts.spec(argv())


@pytest.mark.parametrize(
    ("variable", "value"),
    [("STEADFAST_LAB", "Two Words"), ("STEADFAST_LAB", "-x"), ("STEADFAST_LAB_NETWORK", "10.87.42.0/24")],
)
def test_bad_names_are_refused_with_the_variable(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(LabError, match=variable):
        hosts.Lab.chosen()


def test_a_clash_of_networks_is_found() -> None:
    routes = "default via 192.0.2.1 dev eth0\n10.87.4.0/24 dev a\n10.87.42.0/24 dev corp scope link\n"
    assert hosts.network_clash(hosts.Lab(), routes) == "10.87.42.0/24 dev corp scope link"
    assert hosts.network_clash(hosts.Lab("other", "10.87.44"), routes) is None
