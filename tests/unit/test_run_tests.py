# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""scripts/run_tests.py leaves nothing out: a scenario is run, or another one runs each of its tests."""

from __future__ import annotations

from pathlib import Path

import pytest
import run_tests


def scenarios(root: Path, files: dict[str, str | None]) -> list[str]:
    """Scenarios made of files: path below molecule -> where it is a link to, None for a file."""
    for name, target in files.items():
        path = root / "molecule" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if target is None:
            path.touch()
        else:
            path.symlink_to(target)
    return sorted({name.split("/")[0] for name in files})


@pytest.mark.parametrize(
    ("files", "elsewhere"),
    [
        ({"a/tests/test_a.py": None, "b/tests/test_b.py": None, "b/tests/test_1.py": "../../a/tests/test_a.py"}, ["a"]),
        ({"a/tests/test_a.py": None, "b/tests/test_a.py": None}, []),
        (
            {
                "a/tests/test_1.py": None,
                "a/tests/test_2.py": None,
                "b/tests/test_b.py": None,
                "b/tests/test_1.py": "../../a/tests/test_1.py",
            },
            [],
        ),
        # each only has the other's tests: one of them has to run
        ({"a/tests/test_1.py": None, "b/tests/test_1.py": "../../a/tests/test_1.py"}, []),
        ({"a/molecule.yml": None, "b/tests/test_b.py": None}, []),
    ],
    ids=["linked", "same name", "only some", "nothing of its own", "no tests"],
)
def test_a_scenario_is_left_out_only_if_another_runs_all_of_it(
    files: dict[str, str | None], elsewhere: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_tests, "ROOT", tmp_path)
    names = scenarios(tmp_path, files)
    assert [name for name in names if run_tests.run_elsewhere(name, names)] == elsewhere


def test_all_runs_every_test_of_every_scenario_but_the_long_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def note(name: str) -> run_tests.Outcome:
        ran.append(name)
        return run_tests.Outcome(passed=[name])

    monkeypatch.setattr(run_tests, "scenario", note)
    run_tests.wanted(["molecule"])["molecule"]()
    every = sorted(ran)
    assert every == sorted(file.parent.name for file in (run_tests.ROOT / "molecule").glob("*/molecule.yml"))
    ran.clear()
    run_tests.wanted(["all"])["molecule"]()
    files = set().union(*(run_tests.tests_of(name) for name in ran))
    assert not {*ran} & {*run_tests.LONG} and {*run_tests.LONG} < {*every}
    assert files == set().union(*(run_tests.tests_of(name) for name in every if name not in run_tests.LONG))
    assert ran[0] == "default"


def test_the_longest_files_come_first_and_none_is_lost() -> None:
    files = run_tests.longest_first("tests/integration")
    assert sorted(files) == sorted(
        str(file.relative_to(run_tests.ROOT)) for file in (run_tests.ROOT / "tests/integration").glob("test_*.py")
    )
    known = [f"tests/integration/test_{name}.py" for name in run_tests.LONG_FILES]
    assert files[: len(known)] == known, "LONG_FILES names a file that is not there"


def test_an_unknown_group_is_told() -> None:
    with pytest.raises(SystemExit, match="unknown group lnit"):
        run_tests.wanted(["lnit"])
