"""docs/reference is what the argument specs and the plugins say, and the markup is read rightly."""

from __future__ import annotations

import pytest
import reference_docs


def test_the_reference_pages_are_current() -> None:
    assert reference_docs.differences() == [], "run make docs and commit docs/reference"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("O(path) and V(/health)", "`path` and `/health`"),
        (r"V(a\)b)", "`a)b`"),
        ("V(f(x\\)) is code", "`f(x)` is code"),
        ("RV(targets) C(systemctl) E(HOME)", "`targets` `systemctl` `HOME`"),
        ("I(see) B(now)", "*see* **now**"),
        ("L(the guide, https://example.org/a)", "[the guide](https://example.org/a)"),
        ("M(steadfast.vllm.managed_files)", "[steadfast.vllm.managed_files](../modules/managed_files.md)"),
        ("P(steadfast.vllm.service#role)", "[steadfast.vllm.service](../roles/service.md)"),
        ("M(ansible.builtin.copy)", "`ansible.builtin.copy`"),
        ("O(_input[].env#filter) O(a.b.c#module:wait=true)", "`_input[].env` `wait=true`"),
        ("HTTP(S) stays", "HTTP(S) stays"),
    ],
)
def test_markup(text: str, expected: str) -> None:
    assert reference_docs.markdown(text) == expected


def test_a_cell_holds_its_row() -> None:
    assert reference_docs.cell(["a | b\nc", "", "d"]) == "a \\| b c<br>d"


def test_nested_options_are_named_by_their_path() -> None:
    options = {"check": {"type": "dict", "suboptions": {"path": {"type": "str", "required": True}}}}
    rows = list(reference_docs.option_rows(options))
    assert [row.split(" | ")[0] for row in rows] == ["| `check`", "| `check.path`"]
    assert "**required**" in rows[1]
