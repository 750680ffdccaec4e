# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The manifest's file: what survives, what is refused, who waits for whom."""

from __future__ import annotations

import fcntl
import os
import stat
import threading
from pathlib import Path

import pytest
from ansible_collections.steadfast.vllm.plugins.module_utils import _manifest
from ansible_collections.steadfast.vllm.plugins.module_utils._manifest_plan import Entry, Manifest
from hypothesis import given, settings
from hypothesis import strategies as st

words = st.text(min_size=1, max_size=8)
entries = st.builds(
    Entry,
    words.map(lambda word: f"/{word}"),
    st.sampled_from(["file", "directory"]),
    st.lists(words).map(tuple),
    st.lists(words).map(tuple),
    st.booleans(),
    st.booleans(),
)
manifests = st.builds(
    Manifest,
    st.lists(entries).map(lambda found: {entry.path: entry for entry in found}),
    st.frozensets(words),
)


@settings(max_examples=60, deadline=None)
@given(manifests)
def test_what_is_written_is_read(manifest: Manifest) -> None:
    assert _manifest.parse(_manifest.serialise(manifest)) == manifest


@settings(max_examples=60, deadline=None)
@given(manifests, st.integers(min_value=0))
def test_a_torn_manifest_is_garbled_and_never_half_believed(manifest: Manifest, cut: int) -> None:
    text = _manifest.serialise(manifest)
    torn = text[: cut % (len(text) - 1)]
    if torn.strip() != text.strip():
        with pytest.raises(_manifest.Garbled):
            _manifest.parse(torn)


@settings(max_examples=60, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(0, 1) | words,
        lambda inner: st.dictionaries(
            st.sampled_from(["version", "files", "owed", "path", "state"]), inner | st.lists(inner)
        ),
    )
)
def test_any_json_is_either_a_manifest_or_garbled(document: object) -> None:
    import json

    try:
        parsed = _manifest.parse(json.dumps(document))
    except _manifest.Garbled:
        return
    assert _manifest.parse(_manifest.serialise(parsed)) == parsed


def test_a_manifest_of_a_newer_release_is_refused_and_not_taken_for_garbled() -> None:
    with pytest.raises(_manifest.ManifestError, match="newer release") as caught:
        _manifest.parse('{"version": 2, "files": [], "owed": []}')
    assert not isinstance(caught.value, _manifest.Garbled)


def test_a_manifest_is_for_root_only(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    _manifest.save(str(directory), "service", Manifest(owed=frozenset({"qwen"})))
    assert stat.S_IMODE((directory / "service.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_a_manifest_that_says_nothing_leaves_no_file(tmp_path: Path) -> None:
    _manifest.save(str(tmp_path), "service", Manifest(owed=frozenset({"qwen"})))
    _manifest.save(str(tmp_path), "service", Manifest())
    assert list(tmp_path.iterdir()) == []
    _manifest.save(str(tmp_path / "never"), "service", Manifest())
    assert not (tmp_path / "never").exists()


def test_owed_gathers_and_settle_strikes_in_all_manifests(tmp_path: Path) -> None:
    directory = str(tmp_path)
    _manifest.save(directory, "service", Manifest({"/a": Entry("/a")}, frozenset({"qwen", "systemd"})))
    _manifest.save(directory, "vllm", Manifest(owed=frozenset({"qwen"})))
    (tmp_path / "broken.json").write_text("{", encoding="utf-8")
    assert _manifest.owed(directory) == {"qwen", "systemd"}
    assert _manifest.settle(directory, ["qwen", "unheard-of"]) == {"qwen"}
    assert _manifest.owed(directory) == {"systemd"}
    assert _manifest.load(directory, "service") == Manifest({"/a": Entry("/a")}, frozenset({"systemd"}))
    assert _manifest.load(directory, "vllm") is None
    assert (tmp_path / "broken.json").read_text(encoding="utf-8") == "{"


def test_a_host_without_manifests_owes_nothing_and_is_left_alone(tmp_path: Path) -> None:
    directory = str(tmp_path / "never")
    assert _manifest.owed(directory) == set()
    assert _manifest.settle(directory, ["qwen"]) == set()
    assert not Path(directory).exists()


def take_lock(directory: Path, create: bool = True) -> None:
    with _manifest.lock(str(directory), create=create, timeout=0.05, poll=0.01):
        pytest.fail("the lock was had twice")


def test_a_second_run_waits_and_then_says_who_holds_the_lock(tmp_path: Path) -> None:
    with _manifest.lock(str(tmp_path)), pytest.raises(_manifest.ManifestError, match=f"process {os.getpid()}"):
        take_lock(tmp_path)
    with _manifest.lock(str(tmp_path), timeout=0.05):
        pass


def test_the_lock_ends_with_its_process(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        with _manifest.lock(str(tmp_path)):
            os._exit(0)
    os.waitpid(child, 0)
    with _manifest.lock(str(tmp_path), timeout=0.05):
        pass


def test_check_mode_makes_no_lock_but_respects_one(tmp_path: Path) -> None:
    with _manifest.lock(str(tmp_path), create=False):
        assert list(tmp_path.iterdir()) == []
    with _manifest.lock(str(tmp_path)):
        pass
    with (tmp_path / ".lock").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(_manifest.ManifestError, match="held this lock"):
            take_lock(tmp_path, create=False)


def test_settling_waits_for_a_run(tmp_path: Path) -> None:
    """A settle between the writing ahead and the end of a run would be undone by the run's final manifest."""
    directory = str(tmp_path)
    _manifest.save(directory, "service", Manifest(owed=frozenset({"qwen"})))
    settled = threading.Thread(target=_manifest.settle, args=(directory, ["qwen"]), daemon=True)
    with _manifest.lock(directory):
        settled.start()
        settled.join(0.2)
        assert settled.is_alive()
        _manifest.save(directory, "service", Manifest(owed=frozenset({"qwen", "gemma"})))
    settled.join(10)
    assert _manifest.owed(directory) == {"gemma"}
