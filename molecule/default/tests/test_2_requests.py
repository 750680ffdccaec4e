# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Questions about pictures, answered through the balancer."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import requests

from lab import client, pictures
from lab.play import play


def test_pictures_are_answered_right_and_by_both_hosts(lab: client.Lab, measured: Callable[[str], None]) -> None:
    answers = [(client.ask(lab.url, lab.model, picture), picture.colour) for picture in pictures.pictures(22, seed=20)]
    assert {answer.served_by for answer, _expected in answers} == {"gpu1", "gpu2"}
    wrong = [(answer.text, expected) for answer, expected in answers if not pictures.right(expected, answer.text)]
    measured(f"pictures: {len(answers) - len(wrong)} of {len(answers)} right; model trained: {client.trained()}")
    # a model without training proves the way, not the answer
    if client.trained():
        assert len(wrong) <= 1, wrong


def test_a_text_question_is_answered(lab: client.Lab) -> None:
    assert client.ask(lab.url, lab.model, "Say OK.").text


def test_what_is_asked_each_second_does_not_bury_what_users_ask() -> None:
    told = client.on("gpu1", "journalctl", "-u", client.Lab.read().instance, "-o", "cat", "--no-pager")
    assert "POST /v1/chat/completions" in told
    assert '"GET /metrics' not in told
    assert '"GET /health' not in told


def test_what_is_seen_of_gpus_is_on_one_page() -> None:
    run = play("--limit", "vllm", playbook="playbooks/gpu_check.yml", variables={"gpu_check_fail": True})
    assert run.clean, run.messages
    for host in ("gpu1", "gpu2"):
        assert f"{host}: as planned" in run.said
    # The lab's vLLM is built without CUDA, and its hosts have none of the keeper's reader.
    assert run.said.count("GPUs absent: ") == 2
    assert run.said.count("Xids     ") == 2


def test_an_api_error_reaches_the_client_as_vllm_said_it(lab: client.Lab) -> None:
    got = requests.post(f"{lab.url}/v1/chat/completions", json={"model": "no-such-model", "messages": []}, timeout=20)
    assert got.status_code in (400, 404)
    assert "no-such-model" in got.text or "messages" in got.text


def test_both_servers_are_up_by_their_own_health_check() -> None:
    seen = client.servers()
    assert {name: row["status"] for name, row in seen.items()} == {"gpu1": "UP", "gpu2": "UP"}
    assert {row["check_code"] for row in seen.values()} == {"200"}


def test_the_root_path_as_health_check_takes_both_down_with_404(lab: client.Lab) -> None:
    assert requests.get(lab.url + "/", timeout=10).status_code == 404
    try:
        settings = {"path": "/", "interval": 5, "timeout": 2, "healthy_threshold": 2, "unhealthy_threshold": 2}
        run = play("--limit", "lb1", variables={"vllm_health_check": settings})
        assert run.code == 0, run.messages
        client.wait_until(
            lambda: all(row["status"] == "DOWN" for row in client.servers().values()), 60, "HAProxy takes both down"
        )
        assert {(row["check_status"], row["check_code"]) for row in client.servers().values()} == {("L7STS", "404")}
        assert requests.get(lab.url + "/v1/models", timeout=10).status_code == 503
    finally:
        back = play("--limit", "lb1")
    assert back.code == 0, back.messages
    client.wait_until(
        lambda: all(row["status"] == "UP" for row in client.servers().values()), 60, "HAProxy takes both back"
    )
    with pytest.raises(requests.HTTPError):
        requests.get(lab.url + "/", timeout=10).raise_for_status()
