# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A second instance beside the first, under the manager that the host began with."""

from __future__ import annotations

from collections.abc import Callable

from lab import client
from lab.faults import Subject
from lab.play import Run

MANAGER = "supervisor"
SECOND = {**client.instance(), "name": "second", "port": 8001, "served_model_name": "second", "gpus": []}


def test_a_second_instance_comes_and_goes_and_the_first_serves_on(
    subject: Subject, site: Callable[..., Run], exists: Callable[[str], bool]
) -> None:
    before = subject.processes()
    assert before
    site(MANAGER, vllm_instances=[client.instance(), SECOND])
    assert before <= subject.processes(), "adding an instance restarted another"
    assert client.answers(f"http://{client.Lab.read().hosts[subject.host]}:8001", "second")
    site(MANAGER)
    assert subject.processes() == before
    for path in ("/etc/vllm/second.yaml", "/etc/vllm/second.env", "/etc/vllm-keeper/second.json",
                 "/var/lib/vllm-keeper/second.json", "/etc/supervisor/conf.d/second.conf"):  # fmt: skip
        assert not exists(path), path
    assert "second" not in subject.on("supervisorctl status", check=False)
