# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Xid lines: every shape that drivers write, damage, and what each code asks for."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vllm_keeper.signals import REMEDIES, GpuFault, xid
from vllm_keeper.signals.xid import Xid

TABLE = xid.load()
GPU = "0000:3b:00"
RECORDED = Path(__file__).parent / "recorded" / "gpu" / "h100-580.159.04.json"


def judge(*lines: str, slots: set[str] | None = None, pids: tuple[int, ...] = ()) -> list[GpuFault]:
    parsed = [xid.parse(line) for line in lines]
    return xid.faults([one for one in parsed if one is not None], TABLE, slots, pids)


def line(code: int, rest: str = "pid=7, name=python, something") -> str:
    return f"NVRM: Xid (PCI:{GPU}): {code}, {rest}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "NVRM: Xid (PCI:0000:3b:00): 79, pid=1234, name=python, GPU has fallen off the bus.",
            Xid(79, "0000:3b:00", "", 1234, "python"),
        ),
        ("NVRM: Xid (PCI:0000:5A:00): 79, GPU has fallen off the bus.", Xid(79, "0000:5a:00", "")),
        ("NVRM: Xid (0000:03:00): 14, Channel 00000001", Xid(14, "0000:03:00", "")),
        (
            "[Fri Aug 30 11:43:09 2024] NVRM: Xid (PCI:0000:cb:00): 13, pid='<unknown>', name=<unknown>, Graphics Warp",
            Xid(13, "0000:cb:00", "", None, "<unknown>"),
        ),
        (
            "kernel: NVRM: Xid (PCI:0000:01:00): 45, pid=12542, name=VLLM::Worker, channel 0x00000002",
            Xid(45, "0000:01:00", "", 12542, "VLLM::Worker"),
        ),
        (
            "NVRM: Xid (PCI:0000:01:00 GPU-I:05): 94, pid=9, name=a b, Contained: LTC",
            Xid(94, "0000:01:00", "", 9, "a b", "05"),
        ),
        (
            "NVRM: Xid (PCI:00010000:0F:1c.0): 63, pid='77', name=x, Row Remapper: New row marked",
            Xid(63, "10000:0f:1c", "", 77, "x"),
        ),
        (
            "nvidia-nvswitch3: SXid (PCI:0000:05:00.0): 12028, Non-fatal, Link 32 egress",
            Xid(12028, "0000:05:00", "", kind="SXid"),
        ),
    ],
)
def test_lines_of_drivers(text: str, expected: Xid) -> None:
    found = xid.parse(text)
    assert found is not None
    assert (found.code, found.slot, found.pid, found.process, found.instance, found.kind) == (
        expected.code,
        expected.slot,
        expected.pid,
        expected.process,
        expected.instance,
        expected.kind,
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build",
        "NVRM: GPU at PCI:0000:01:00: GPU-bc0fa0b9-cac2-f507-b715-9bebdb69c71e",
        "NVRM: Persistence mode is deprecated",
        "usb 1-1: Xid (PCI:0000:01:00): 79, not the driver's",
        "NVRM: Xidious (PCI:0000:01:00): 79, x",
    ],
)
def test_what_is_no_xid(text: str) -> None:
    assert xid.parse(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "NVRM: Xid (PCI:0000:3b:00): 7",
        "NVRM: Xid (PCI:0000:3b:00): , pid=3",
        "NVRM: Xid (PCI:0000:3b",
        "NVRM: Xid",
        "NVRM: Xid (PCI:0000:3b:00): 79 GPU has fallen",
        "NVRM: Xid garbage NVRM: Xid (PCI:0000:3b:00): 79, two lines in one",
    ],
)
def test_damage_is_told_and_does_nothing(text: str) -> None:
    found = xid.parse(text)
    assert found is not None and found.code is None
    (fault,) = xid.faults([found], TABLE)
    assert (fault.remedy, fault.urgent) == ("ignore", False)
    assert "damaged" in fault.evidence


WHOLE = st.builds(
    "NVRM: Xid (PCI:{:04x}:{:02x}:{:02x}): {}, pid={}, name={}, {}".format,
    st.integers(0, 0xFFFF),
    st.integers(0, 0xFF),
    st.integers(0, 0x1F),
    st.integers(1, 999),
    st.integers(1, 1 << 22),
    st.text(st.characters(codec="ascii", exclude_characters=",\n\r\t\x0b\x0c\x1c\x1d\x1e\x1f\x85 "), min_size=1),
    st.text(st.characters(codec="ascii"), max_size=40),
)


@given(WHOLE, st.integers(0, 200))
def test_a_line_that_is_cut_off_never_names_another_code(text: str, length: int) -> None:
    whole, cut = xid.parse(text), xid.parse(text[:length])
    assert whole is not None and whole.code is not None
    assert cut is None or cut.code in (None, whole.code)
    assert cut is None or cut.slot in ("", whole.slot)
    assert cut is None or cut.pid in (None, whole.pid)


@given(st.text() | st.text().map("NVRM: Xid (PCI:0000:3b:00): 79, ".__add__) | st.text().map("NVRM: Xid (".__add__))
def test_no_text_breaks_the_parser(text: str) -> None:
    found = xid.parse(text)
    for fault in xid.faults([] if found is None else [found], TABLE):
        assert fault.remedy in REMEDIES


@given(st.lists(st.builds(lambda code, pid: line(code, f"pid={pid}, x"), st.integers(0, 400), st.integers(1, 9))))
def test_laws_of_judging(lines: list[str]) -> None:
    faults = judge(*lines, slots={GPU}, pids=(1, 2))
    assert len(faults) == len(lines)
    for text, fault in zip(lines, faults):
        found = xid.parse(text)
        assert found is not None and found.code is not None
        assert not fault.urgent or fault.remedy != "ignore"
        if found.code not in TABLE.entries:
            assert (fault.remedy, fault.urgent) == ("ignore", False)
        if fault.remedy == "restart_application":
            assert found.pid in (1, 2)
    assert judge(*lines, slots={"0000:ff:00"}) == []  # another instance's GPUs


@pytest.mark.parametrize(
    ("code", "remedy", "urgent"),
    [
        (46, "reset_gpu", True),
        (48, "reset_gpu", True),
        (62, "reset_gpu", True),
        (64, "reset_gpu", True),
        (79, "reboot", True),
        (95, "reset_gpu", True),
        (109, "reset_gpu", True),
        (119, "reset_gpu", True),
        (140, "reset_gpu", True),
        (151, "reboot", True),
        (43, "ignore", False),
        (45, "ignore", False),
        (63, "ignore", False),
        (92, "ignore", False),
        (154, "ignore", False),  # without saying from what to what
        (999, "ignore", False),
    ],
)
def test_what_a_code_asks_for(code: int, remedy: str, urgent: bool) -> None:
    (fault,) = judge(line(code))
    assert (fault.remedy, fault.urgent, fault.gpu) == (remedy, urgent, GPU)


@pytest.mark.parametrize("code", [13, 31, 94])
def test_an_error_of_a_program_concerns_only_that_program(code: int) -> None:
    (ours,), (others,) = judge(line(code), pids=(7,)), judge(line(code), pids=(8,))
    assert (ours.remedy, ours.urgent) == ("restart_application", True)
    assert (others.remedy, others.urgent) == ("ignore", False)
    (unknown,) = judge(line(code, "pid='<unknown>', name=<unknown>, x"), pids=(7,))
    assert (unknown.remedy, unknown.urgent) == ("restart_application", False)


@pytest.mark.parametrize(
    ("words", "remedy", "urgent"),
    [
        ("0x0 (None) to 0x1 (GPU Reset Required)", "reset_gpu", True),
        ("0x0 (None) to 0x2 (Node Reboot Required)", "reboot", True),
        ("0x0 (None) to 0x3 (Drain P2P)", "restart_application", False),
        ("0x0 (None) to 0x4 (Drain and Reset)", "reset_gpu", False),
        ("0x1 (GPU Reset Required) to 0x0 (None)", "ignore", False),
        ("0x0 (None) to 0x77 (Who Knows)", "ignore", False),
    ],
)
def test_xid_154_sums_up_the_others(words: str, remedy: str, urgent: bool) -> None:
    other, summed = judge(line(62), line(154, f"GPU recovery action changed from {words}"))
    assert (summed.remedy, summed.urgent) == (remedy, urgent)
    assert (other.remedy, other.urgent) == ("ignore", False)
    # Of another GPU it says nothing.
    apart, _ = judge(line(62).replace(GPU, "0000:5e:00"), line(154, f"GPU recovery action changed from {words}"))
    assert (apart.remedy, apart.urgent) == ("reset_gpu", True)


def test_a_double_bit_error_that_is_being_remapped_lets_the_work_end() -> None:
    faults = judge(line(48), line(63))
    assert [(fault.remedy, fault.urgent) for fault in faults] == [("reset_gpu", False), ("ignore", False)]


@pytest.mark.parametrize(
    ("word", "remedy"), [("Fatal", "reset_gpu"), ("Nonfatal", "ignore"), ("Non-fatal", "ignore"), ("", "ignore")]
)
def test_a_link_error_of_the_fifth_nvlink_says_whether_it_is_fatal(word: str, remedy: str) -> None:
    (fault,) = judge(line(145, f"RLW_REMAP {word} XC0 i0 Link 00 (0x00000001 0x00000002)"))
    assert fault.remedy == remedy


def test_an_nvswitchs_error_is_told_only() -> None:
    (fault,) = judge("nvidia-nvswitch0: SXid (PCI:0000:05:00.0): 79, Fatal, Link 1")
    assert (fault.cause, fault.remedy) == ("sxid_79", "ignore")


def test_the_table_is_whole() -> None:
    data = json.loads(xid.TABLE.read_text(encoding="utf-8"))
    assert re.fullmatch(r"\d{4}-\d{2}-\d{2}", data["dated"])
    assert all(source["document"] and source["version"] and source["taken"] for source in data["sources"])
    assert TABLE.problem == "" and len(TABLE.entries) == len(data["codes"]) > 100
    assert {row["immediate"] for row in data["codes"].values()} == set(data["remedies"])  # no word without use
    assert set(TABLE.actions) == set(range(8))


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"dated": "x", "remedies": {"": {"remedy": "explode", "meaning": ""}}}', "null"]
)
def test_a_broken_table_makes_every_code_unknown(tmp_path: Path, text: str) -> None:
    path = tmp_path / "xid_table.json"
    path.write_text(text, encoding="utf-8")
    table = xid.load(path)
    assert str(path) in table.problem and "site.yml" in table.problem
    (fault,) = xid.faults([Xid(79, GPU, "x")], table)
    assert (fault.remedy, fault.urgent) == ("ignore", False)


def test_a_missing_table(tmp_path: Path) -> None:
    assert "xid_table.json" in xid.load(tmp_path / "xid_table.json").problem


def test_lines_of_a_real_driver() -> None:
    """Recorded on an H100 with driver 580.159.04: harmless lines, and Xids of a program that wrote where it may not."""
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))
    parsed = [xid.parse(text) for text in recorded["kernel_lines"]]
    found = [one for one in parsed if one is not None]
    assert {(one.code, one.slot, one.process) for one in found} == {(31, "0000:00:06", "python3")}
    assert len(found) < len(parsed)  # the harmless ones are none
    fault = xid.faults(found[:1], TABLE, {recorded["before"]["gpus"][0]["slot"]}, (found[0].pid or 0,))[0]
    assert (fault.cause, fault.remedy, fault.urgent) == ("xid_31", "restart_application", True)
