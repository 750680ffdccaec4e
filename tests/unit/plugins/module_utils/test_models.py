# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a fetch is started and its answer read, with a stand-in for the program."""

from __future__ import annotations

import getpass
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.steadfast.vllm.plugins.module_utils._command import Done
from ansible_collections.steadfast.vllm.plugins.module_utils._models import Models, Problem, Request

TOKEN = "hf_verysecrettoken"
PASSWORD = "of-the-proxy"


class Fetch:
    """Says what it is told to, and remembers how it was called."""

    def __init__(self, status: int = 0, output: str = "", errors: str = "") -> None:
        self.done = Done(status, output, errors)
        self.command: list[str] = []
        self.options: dict[str, Any] = {}

    def __call__(self, command: Any, **options: Any) -> Done:
        self.command, self.options = list(command), options
        return self.done


def have(folder: Path, fetch: Fetch, check_mode: bool = False) -> dict[str, Any]:
    path = folder / "org--tiny" / "main"
    request = Request(
        models=[{"path": str(path), "source": "hub", "model": "org/tiny", "revision": None}],
        python=sys.executable,
        user=getpass.getuser(),
        endpoint="",
        token=TOKEN,
        ignore=[],
        environment={"HTTPS_PROXY": f"http://me:{PASSWORD}@proxy"},
    )
    return Models(request, fetch).ensure(check_mode)


def answer(folder: Path) -> str:
    return json.dumps({"fetched": {str(folder / "org--tiny" / "main"): {"commit": "c" * 40, "bytes": 1}}})


def test_no_secret_stands_in_the_command(tmp_path: Path) -> None:
    fetch = Fetch(output=f"a line of some library\n{answer(tmp_path)}\n")
    result = have(tmp_path, fetch)
    assert result["commits"] == {str(tmp_path / "org--tiny" / "main"): "c" * 40}
    assert not [word for word in fetch.command if TOKEN in word or PASSWORD in word]
    assert json.loads(json.loads(fetch.options["given"])["request"])["token"] == TOKEN
    assert "HF_TOKEN" not in fetch.options["environment"]
    assert PASSWORD in fetch.options["environment"]["HTTPS_PROXY"]


def test_check_mode_starts_nothing(tmp_path: Path) -> None:
    fetch = Fetch()
    assert have(tmp_path, fetch, check_mode=True)["changed"] and fetch.command == []


@pytest.mark.parametrize(
    ("fetch", "words"),
    [
        (Fetch(3, "", f"killed with {TOKEN} in {PASSWORD}"), "status 3 and no answer. killed with"),
        (Fetch(0, "no json\n"), "status 0 and no answer"),
        (Fetch(1, json.dumps({"failed": f"no entry with {TOKEN}", "fetched": {}})), "no entry with"),
    ],
)
def test_a_failed_fetch_is_told_without_secrets(tmp_path: Path, fetch: Fetch, words: str) -> None:
    with pytest.raises(Problem, match=words) as caught:
        have(tmp_path, fetch)
    assert TOKEN not in str(caught.value)
    assert PASSWORD not in str(caught.value)
