# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a program gets that is run through run_command, and what comes back."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest
from ansible_collections.steadfast.vllm.plugins.module_utils._command import Done
from ansible_collections.steadfast.vllm.tests.real_runner import real_runner

LARGE = "x" * 1_000_000


def python(code: str) -> list[str]:
    return [sys.executable, "-I", "-c", code]


def test_a_program_gets_its_variables_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/of/the/login")
    before = dict(os.environ)
    code = "import os, json; print(json.dumps(dict(os.environ)))"
    seen = json.loads(real_runner()(python(code), environment={"A": "1"}).output)
    seen.pop("LC_CTYPE", None)  # Python's own, where no locale is set
    assert seen == {"A": "1"}
    assert dict(os.environ) == before


def test_without_variables_of_its_own_it_has_the_module_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OF_THE_MODULE", "here")
    done = real_runner()(python("import os; print(os.environ['OF_THE_MODULE'])"))
    assert done == Done(0, "here\n", "")


@pytest.mark.parametrize("given", ["", "two\nlines", LARGE])
def test_a_program_reads_what_it_is_given_and_nothing_else(given: str) -> None:
    done = real_runner()(python("import sys; sys.stdout.write(sys.stdin.read())"), given=given)
    assert done.output == given


def test_a_program_that_reads_nothing_is_still_heard() -> None:
    done = real_runner()(python("import sys; sys.exit('no')"), given=LARGE)
    assert done == Done(1, "", "no\n")


def test_what_the_test_itself_reads_is_not_touched() -> None:
    before = os.fstat(0)
    real_runner()(["/bin/true"], given="x")
    assert os.path.samestat(before, os.fstat(0))


def test_words_are_not_expanded() -> None:
    assert real_runner()(["/bin/echo", "$HOME", "~"]).output == "$HOME ~\n"


def test_it_runs_in_its_folder_with_the_usual_mask(tmp_path: Path) -> None:
    mask = os.umask(0o077)
    try:
        real_runner()(["/bin/mkdir", "made"], folder=str(tmp_path))
    finally:
        os.umask(mask)
    assert (tmp_path / "made").stat().st_mode & 0o777 == 0o755


def test_a_held_descriptor_is_open_in_the_program(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        code = f"import os; print(os.readlink('/proc/self/fd/{descriptor}'))"
        assert real_runner()(python(code), held=(descriptor,)).output.strip() == str(tmp_path / "lock")
        assert real_runner()(python(code)).status == 1
    finally:
        os.close(descriptor)


def test_output_that_is_no_text_does_not_break() -> None:
    assert real_runner()(["/bin/printf", r"a\377"]).output == "a\N{REPLACEMENT CHARACTER}"


def test_a_program_that_hangs_is_killed_and_told() -> None:
    begun = time.monotonic()
    with pytest.raises(TimeoutError, match=r"no answer within 0\.2 s"):
        real_runner()(["/bin/sleep", "30"], timeout=0.2)
    assert time.monotonic() - begun < 10


def test_a_quick_program_is_not_hurt_by_its_timeout() -> None:
    assert real_runner()(["/bin/true"], timeout=60).status == 0


def test_a_program_that_is_not_there_is_an_error_of_the_system() -> None:
    with pytest.raises(FileNotFoundError):
        real_runner()(["/nowhere/program"])
