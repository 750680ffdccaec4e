# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Apply a manifest to a real directory, with kills at many points."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from ansible_collections.steadfast.vllm.plugins.module_utils import _manifest, _manifest_files
from ansible_collections.steadfast.vllm.plugins.module_utils._manifest import ManifestError
from ansible_collections.steadfast.vllm.plugins.module_utils._manifest_apply import Action, Host, Outcome, Request, Run
from ansible_collections.steadfast.vllm.plugins.module_utils._manifest_commands import Finished
from ansible_collections.steadfast.vllm.plugins.module_utils._manifest_exclusive import Exclusive
from ansible_collections.steadfast.vllm.plugins.module_utils._manifest_plan import DIRECTORY, FILE, Desired, Manifest
from ansible_collections.steadfast.vllm.plugins.module_utils._manifest_validate import Item

ACTIONS = (Action("systemd", ("true",)),)


def run_command(argv: Sequence[str]) -> Finished:
    """As the module runs programs."""
    done = subprocess.run(
        list(argv), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, text=True
    )
    return Finished(done.returncode, done.stdout.strip())


class Place:
    """A host in a directory: its files, its manifests, and a record of the commands that ran."""

    def __init__(self, root: Path) -> None:
        self.root, self.state = root / "host", root / "state"
        self.root.mkdir()
        self.log = root / "log"

    def file(self, name: str, text: str = "", **options: Any) -> Item:
        beside = {key: options.pop(key) for key in ("validate", "validate_as") if key in options}
        content = text.encode()
        desired = Desired(
            str(self.root / name),
            mode=options.pop("mode", 0o644),
            uid=os.getuid(),
            gid=os.getgid(),
            digest=_manifest_files.digest_of(content),
            **options,
        )
        return Item(desired, content, **beside)

    def directory(self, name: str, mode: int = 0o755) -> Item:
        return Item(Desired(str(self.root / name), DIRECTORY, mode, os.getuid(), os.getgid()))

    def run_and_record(self, argv: Sequence[str]) -> Finished:
        """Run for real; note the command and what the unit held at that time."""
        done = run_command(argv)
        unit = self.root / "new" / "unit"
        with self.log.open("a", encoding="utf-8") as stream:
            stream.write(f"{' '.join(argv)} | {unit.read_text(encoding='utf-8') if unit.exists() else 'absent'}\n")
        return done

    def request(self, *items: Item, **options: Any) -> Request:
        return Request(str(self.state), "service", items, **{"actions": ACTIONS, **options})

    def run(self, *items: Item, host: Host | None = None, **options: Any) -> Outcome:
        return Run(self.request(*items, **options), host or Host(self.run_and_record))()

    def owed(self) -> set[str]:
        return _manifest.owed(str(self.state))

    def stands(self) -> dict[str, str]:
        """Every path of the host and what it holds."""
        found = {}
        for path in sorted(self.root.rglob("*")):
            text = path.read_text(encoding="utf-8") if path.is_file() else "<directory>"
            found[str(path.relative_to(self.root))] = text
        return found


@pytest.fixture
def quick_path() -> Iterator[Path]:
    """A folder in memory where there is one: many runs wait for the disk otherwise."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:
        yield Path(folder)


@pytest.fixture
def place(quick_path: Path) -> Place:
    return Place(quick_path)


def test_a_first_run_then_nothing_then_drift(place: Place) -> None:
    items = (place.directory("new"), place.file("new/unit", "one", owes=("systemd", "qwen")))
    first = place.run(*items)
    assert (first.changed, first.actions, first.owed) == (True, ["systemd"], ["qwen"])
    unit = place.root / "new" / "unit"
    assert first.files == [str(place.root / "new"), str(unit)]
    manifest = place.state / "service.json"
    before = manifest.stat()
    again = place.run(*items)
    assert (again.changed, again.files, again.owed) == (False, [], ["qwen"])
    assert manifest.stat().st_mtime_ns == before.st_mtime_ns
    unit.chmod(0o600)
    mended = place.run(*items)
    assert (mended.files, mended.actions) == ([str(unit)], [])
    assert unit.stat().st_mode & 0o7777 == 0o644
    unit.write_text("drift", encoding="utf-8")
    assert place.run(*items).actions == ["systemd"]
    unit.unlink()
    assert place.run(*items).files == [str(unit)]
    assert place.stands() == {"new": "<directory>", "new/unit": "one"}


def test_check_mode_tells_and_does_nothing(place: Place) -> None:
    items = (place.directory("new"), place.file("new/unit", "one", owes=("systemd", "qwen")))
    told = place.run(*items, check=True)
    assert place.stands() == {}
    assert not place.state.exists()
    did = place.run(*items)
    assert (told.files, told.actions, told.owed) == (did.files, did.actions, did.owed)
    told = place.run(check=True)
    assert place.stands() == {"new": "<directory>", "new/unit": "one"}
    did = place.run()
    assert (told.removed, told.actions, told.owed) == (did.removed, did.actions, did.owed)
    assert did.removed == [str(place.root / "new" / "unit"), str(place.root / "new")]


def test_an_empty_list_leaves_nothing(place: Place) -> None:
    place.run(place.directory("new"), place.file("new/unit", "one", owes=("systemd",)))
    (place.root / "new" / "foreign").write_text("mine", encoding="utf-8")
    outcome = place.run()
    assert outcome.kept == [str(place.root / "new")]
    assert place.stands() == {"new": "<directory>", "new/foreign": "mine"}
    assert _manifest.names(str(place.state)) == ()


def test_a_refused_file_changes_nothing_at_all(place: Place) -> None:
    place.run(place.file("a", "old", owes=("qwen",)), place.file("gone", "still"))
    _manifest.settle(str(place.state), ["qwen"])
    manifest = (place.state / "service.json").read_text(encoding="utf-8")
    bad = place.file("b", "bad", validate="grep -c good %s")
    with pytest.raises(ManifestError, match="Nothing was changed") as caught:
        place.run(place.file("a", "new", owes=("qwen",)), bad)
    assert f"{place.root}/b: refused by its validator `grep -c good %s` (exit code 1): 0" in str(caught.value)
    assert place.stands() == {"a": "old", "gone": "still"}
    assert (place.state / "service.json").read_text(encoding="utf-8") == manifest
    assert not list(place.state.glob(".staging*"))


def test_a_secret_is_nowhere_but_in_its_file(place: Place) -> None:
    secret = place.file("env", "KEY=hunter2\n", secret=True, mode=0o600, validate="sh -c 'cat $0; exit 1' %s")
    run = Run(place.request(secret, diff=True), Host(run_command))
    with pytest.raises(ManifestError) as caught:
        run()
    assert "not shown" in str(caught.value)
    assert "hunter2" not in str(caught.value) + repr(run.outcome)
    fine = dataclasses.replace(secret, validate="grep -q hunter2 %s")
    outcome = place.run(fine, diff=True)
    assert outcome.diff[0]["after"] == "(different secret content, not shown)\n"
    # What the manifest remembers as secret is not shown when it is removed, nor by a list that forgot.
    forgot = place.file("env", "KEY=other\n")
    for later in (place.run(forgot, diff=True, check=True), place.run(diff=True)):
        assert later.changed
        assert "hunter2" not in repr(later)
    assert "hunter2" not in "".join(
        path.read_text(encoding="utf-8") for path in place.state.rglob("*") if path.is_file()
    )


def test_another_files_checker_does_not_see_a_secret(place: Place) -> None:
    public = place.file("conf", "x", validate="sh -c 'grep -rs hunter2 $(dirname $0)/..; exit 1' %s")
    secret = place.file("env", "hunter2", secret=True, mode=0o600)
    with pytest.raises(ManifestError) as caught:
        place.run(public, secret)
    assert "hunter2" not in str(caught.value).split("(exit code 1):")[1]


def test_files_of_one_directory_are_checked_side_by_side(place: Place) -> None:
    service = place.file("a.service", "service")
    timer = place.file("a.timer", "timer", validate="sh -c 'cat $(dirname $0)/a.service' %s")
    assert place.run(service, timer).changed


def test_a_checker_sees_the_name_it_wants(place: Place) -> None:
    named = place.file(
        "conf", "x", validate="sh -c 'test $(basename $0) = qwen.service' %s", validate_as="qwen.service"
    )
    other = place.file("qwen.service", "y", validate="grep -q y %s")
    assert place.run(named, other).changed


def test_a_missing_checker_is_an_error_or_in_check_mode_told(place: Place) -> None:
    item = place.file("a", "x", validate="no-such-checker %s")
    told = place.run(item, check=True)
    assert told.changed
    assert told.unvalidated[0]["path"] == item.path
    assert "no-such-checker is not on this host" in told.unvalidated[0]["reason"]
    with pytest.raises(ManifestError, match="install it before"):
        place.run(item)
    assert place.stands() == {}


def test_in_check_mode_a_refusal_counts_once_the_host_has_the_manifest(place: Place, tmp_path: Path) -> None:
    bad = place.file("b", "bad", validate="grep -q good %s")
    assert len(place.run(bad, check=True, scratch=str(tmp_path)).unvalidated) == 1
    place.run(place.file("a", "x"))
    with pytest.raises(ManifestError, match="refused by its validator"):
        place.run(place.file("a", "x"), bad, check=True, scratch=str(tmp_path))
    assert not list(tmp_path.glob(".staging*"))


def test_a_failing_command_before_removal_keeps_the_file(place: Place) -> None:
    unit = place.file("unit", "one", owes=("systemd",), before_remove=("sh", "-c", "echo busy; exit 3"))
    place.run(unit)
    run = Run(place.request(place.file("other", "x", owes=("qwen",))), Host(run_command))
    with pytest.raises(ManifestError, match="failed with exit code 3: busy"):
        run()
    assert place.stands() == {"unit": "one"}
    assert unit.path in (_manifest.load(str(place.state), "service") or Manifest()).entries
    assert (run.outcome.changed, run.outcome.owed, place.owed()) == (False, [], set())


def test_before_removal_comes_before_removal(place: Place) -> None:
    unit = place.root / "unit"
    place.run(place.file("unit", "one", before_remove=("cp", str(unit), str(place.root / "copy"))))
    assert place.run().removed == [str(unit)]
    assert place.stands() == {"copy": "one"}


def test_what_is_gone_already_does_not_block(place: Place) -> None:
    place.run(place.file("unit", "one", owes=("qwen",), before_remove=("false",)))
    (place.root / "unit").unlink()
    outcome = place.run()
    assert (outcome.removed, outcome.owed) == ([], ["qwen"])
    assert "is gone already" in outcome.warnings[0]


def test_a_failing_action_stays_owed_and_is_tried_again(place: Place) -> None:
    unit = place.file("unit", "one", owes=("systemd", "other"))
    actions = (Action("other", ("true",)), Action("systemd", ("sh", "-c", "echo no bus; exit 4")))
    run = Run(place.request(unit, actions=actions), Host(run_command))
    with pytest.raises(ManifestError, match=r"systemd stays owed: .*exit code 4: no bus"):
        run()
    assert (run.outcome.files, run.outcome.actions, run.outcome.owed) == ([unit.path], ["other"], ["systemd"])
    assert place.owed() == {"systemd"}
    again = place.run(unit)
    assert (again.changed, again.actions, again.files, place.owed()) == (True, ["systemd"], [], set())


def test_actions_run_in_the_order_given(place: Place) -> None:
    actions = (Action("b", ("echo", "1")), Action("unowed", ("echo", "2")), Action("a", ("echo", "3")))
    assert place.run(place.file("f", "x", owes=("a", "b")), actions=actions).actions == ["b", "a"]
    assert [line.split(" |")[0] for line in place.log.read_text(encoding="utf-8").splitlines()] == ["echo 1", "echo 3"]


@pytest.mark.parametrize(
    "garbage", ["", "{", "[]", '{"version": 1}', "\x00\x01", '{"version": 1, "files": [{}], "owed": []}']
)
def test_a_garbled_manifest_is_said_kept_aside_and_made_anew(place: Place, garbage: str) -> None:
    keep, drop = place.file("keep", "x", owes=("qwen",)), place.file("drop", "x")
    place.run(keep, drop)
    _manifest.settle(str(place.state), ["qwen"])
    (place.state / "service.json").write_text(garbage, encoding="utf-8")
    told = place.run(keep, check=True)
    assert not list(place.state.glob("*garbled*"))
    outcome = place.run(keep)
    assert "could not be read" in outcome.warnings[0]
    assert (outcome.removed, outcome.owed, outcome.changed) == ([], ["qwen"], False)
    assert told.owed == ["qwen"]
    assert place.stands() == {"drop": "x", "keep": "x"}
    (aside,) = place.state.glob("service.json.garbled-*")
    assert aside.read_text(encoding="utf-8") == garbage
    assert place.run(keep).warnings == []


def test_a_manifest_of_a_newer_release_stops_the_run(place: Place) -> None:
    place.state.mkdir()
    (place.state / "service.json").write_text('{"version": 99, "files": [], "owed": []}', encoding="utf-8")
    with pytest.raises(ManifestError, match="newer release"):
        place.run(place.file("a", "x"))
    assert place.stands() == {}


def test_a_manifest_that_others_can_read_is_made_private(place: Place) -> None:
    item = place.file("a", "x")
    place.run(item)
    (place.state / "service.json").chmod(0o644)
    assert not place.run(item).changed
    assert (place.state / "service.json").stat().st_mode & 0o7777 == 0o600


def test_a_path_has_one_owner(place: Place) -> None:
    item = place.file("a", "x")
    place.run(item)
    (place.root / "link").symlink_to(place.root)
    for path in ("a", "link/a"):
        with pytest.raises(ManifestError, match="belongs to the manifest service"):
            Run(Request(str(place.state), "other", (place.file(path, "y"),)), Host(run_command))()
    assert place.stands()["a"] == "x"


def test_two_names_of_one_place_are_refused_and_a_new_name_is_no_removal(place: Place) -> None:
    (place.root / "link").symlink_to(place.root)
    with pytest.raises(ManifestError, match="is the same place as"):
        place.run(place.file("a", "x"), place.file("link/a", "x"))
    place.run(place.file("a", "x"))
    assert place.run(place.file("link/a", "x")).removed == []
    assert (place.root / "a").read_text(encoding="utf-8") == "x"


def test_a_missing_directory_is_said_before_anything_is_done(place: Place) -> None:
    with pytest.raises(ManifestError, match=r"no/a: its directory .*/no does not exist: list it with state: directory"):
        place.run(place.file("b", "x"), place.file("no/a", "x"))
    assert place.stands() == {}
    told = place.run(place.file("no/a", "x"), check=True)
    assert "does not exist (yet)" in told.warnings[0]


def test_a_link_is_replaced_and_never_followed(place: Place, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("not ours", encoding="utf-8")
    (place.root / "a").symlink_to(elsewhere)
    outcome = place.run(place.file("a", "ours"), diff=True)
    assert outcome.diff[0]["before"] == f"symbolic link to {elsewhere}\n"
    assert not (place.root / "a").is_symlink()
    assert elsewhere.read_text(encoding="utf-8") == "not ours"
    (place.root / "d").symlink_to(tmp_path)
    with pytest.raises(ManifestError, match="never managed through a link"):
        place.run(place.file("a", "ours"), place.directory("d"))


def test_an_error_half_way_leaves_the_truth(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rename that fails: what was done is owed, what was not is not, and no temporary file is left."""
    place.run(place.file("a", "1"), place.file("b", "1"))
    real = _manifest_files.move_into_place

    def fail_for_b(path: str) -> None:
        if path.endswith("/b"):
            raise OSError(30, "Read-only file system", _manifest_files.temporary_path(path))
        real(path)

    monkeypatch.setattr(_manifest_files, "move_into_place", fail_for_b)
    items = (place.directory("new"), place.file("a", "2", owes=("for-a",)), place.file("b", "2", owes=("for-b",)))
    run = Run(place.request(*items), Host(run_command))
    with pytest.raises(ManifestError, match=f"{place.root}/b: cannot be read or written: Read-only file system"):
        run()
    assert place.stands() == {"a": "2", "b": "1", "new": "<directory>"}
    assert (run.outcome.files, run.outcome.owed) == ([str(place.root / "new"), str(place.root / "a")], ["for-a"])
    monkeypatch.undo()
    assert place.run(*items).owed == ["for-a", "for-b"]
    assert place.stands() == {"a": "2", "b": "2", "new": "<directory>"}


def test_no_room_changes_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full is met while preparing: before anything is stopped, removed or replaced."""
    place.run(place.file("a", "1"), place.file("old", "1", before_remove=("rm", str(place.root / "a"))))
    real = _manifest_files.write_beside

    def fail_for_b(path: str, *arguments: Any, **options: Any) -> None:
        if path.endswith("/b"):
            raise OSError(28, "No space left on device", path)
        real(path, *arguments, **options)

    monkeypatch.setattr(_manifest_files, "write_beside", fail_for_b)
    with pytest.raises(ManifestError, match="No space left on device"):
        place.run(place.directory("new"), place.file("a", "2", owes=("for-a",)), place.file("b", "2"))
    assert place.stands() == {"a": "1", "old": "1"}
    assert place.owed() == set()


# Extra files


def test_extra_files_are_told_then_removed_and_owed(place: Place, tmp_path: Path) -> None:
    listed = place.file("d/listed.conf", "x", owes=("systemd",))
    items = (place.directory("d"), listed)
    place.run(*items)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("not ours", encoding="utf-8")
    folder = place.root / "d"
    (folder / "a.conf").write_text("drift\n", encoding="utf-8")
    (folder / "b.conf").symlink_to(elsewhere)
    (folder / "binary.conf").write_bytes(b"\0\1")
    (folder / "readme").write_text("no match", encoding="utf-8")
    (folder / "inner.conf").mkdir()
    (folder / "inner.conf" / "c.conf").write_text("deeper", encoding="utf-8")
    os.mkfifo(folder / "pipe.conf")
    rules = (Exclusive(str(folder), "*.conf", ("systemd", "qwen")), Exclusive(str(place.root / "none"), owes=("no",)))
    told = place.run(*items, exclusive=rules, check=True, diff=True)
    assert (folder / "a.conf").exists()
    did = place.run(*items, exclusive=rules, diff=True)
    assert dataclasses.asdict(told) == dataclasses.asdict(did)
    assert did.removed == [str(folder / name) for name in ("a.conf", "b.conf", "binary.conf")]
    assert (did.actions, did.owed, place.owed()) == (["systemd"], ["qwen"], {"qwen"})
    before = {entry["before_header"]: entry["before"] for entry in did.diff}
    assert before[f"{folder}/a.conf"] == "drift\n"
    assert before[f"{folder}/b.conf"] == f"symbolic link to {elsewhere}\n"
    assert before[f"{folder}/binary.conf"].startswith("(binary content, 2 bytes, sha256 ")
    assert elsewhere.read_text(encoding="utf-8") == "not ours"
    assert sorted(path.name for path in folder.iterdir()) == ["inner.conf", "listed.conf", "pipe.conf", "readme"]
    assert (folder / "inner.conf" / "c.conf").exists()
    again = place.run(*items, exclusive=rules)
    assert (again.changed, again.removed, again.owed) == (False, [], ["qwen"])


def test_an_extra_file_beside_a_secret_one_is_not_shown(place: Place) -> None:
    items = (place.directory("d"), place.file("d/env", "KEY=hunter2", secret=True))
    place.run(*items)
    (place.root / "d" / "env.bak").write_text("KEY=hunter2", encoding="utf-8")
    (place.root / "link").symlink_to(place.root)
    outcome = place.run(*items, exclusive=(Exclusive(str(place.root / "link" / "d")),), diff=True)
    assert outcome.removed == [str(place.root / "link" / "d" / "env.bak")]
    assert outcome.diff[0]["before"] == "(secret content, not shown)\n"
    assert "hunter2" not in repr(outcome)


def test_what_is_listed_through_a_link_is_no_extra_file(place: Place) -> None:
    (place.root / "link").symlink_to(place.root)
    items = (place.directory("d"), place.file("d/a", "x"), place.file("d/old", "x", owes=("old",)))
    place.run(*items)
    rules = (Exclusive(str(place.root / "link" / "d"), owes=("extra",)), Exclusive(str(place.root / "d"), "*"))
    (place.root / "d" / "extra").touch()
    outcome = place.run(*items[:2], exclusive=rules)
    assert len(outcome.removed) == 2
    assert {Path(path).name for path in outcome.removed} == {"old", "extra"}
    assert place.owed() == {"old", "extra"}
    assert [path.name for path in (place.root / "d").iterdir()] == ["a"]


def test_a_linked_directory_is_not_followed(place: Place, tmp_path: Path) -> None:
    (tmp_path / "a.conf").touch()
    (place.root / "d").symlink_to(tmp_path)
    outcome = place.run(place.file("x", "x"), exclusive=(Exclusive(str(place.root / "d")),))
    assert outcome.removed == []
    assert "is a symbolic link" in outcome.warnings[0]
    assert (tmp_path / "a.conf").exists()


def test_another_manifests_files_are_kept(place: Place) -> None:
    (place.root / "d").mkdir()
    Run(Request(str(place.state), "other", (place.file("d/theirs", "x"),)), Host(run_command))()
    (place.root / "d" / "extra").touch()
    rules = (Exclusive(str(place.root / "d")),)
    told = place.run(exclusive=rules, check=True)
    did = place.run(exclusive=rules)
    assert (told.kept, told.removed) == (did.kept, did.removed)
    assert (did.kept, did.removed) == ([str(place.root / "d" / "theirs")], [str(place.root / "d" / "extra")])
    # While it cannot be read, nobody knows what it claims.
    (place.state / "other.json").write_text("{", encoding="utf-8")
    (place.root / "d" / "extra").touch()
    unsure = place.run(exclusive=rules)
    assert (unsure.removed, len(unsure.kept)) == ([], 2)
    assert "other.json cannot be read and may claim it" in unsure.warnings[0]


def test_the_manifests_are_nobodys_extra_files(place: Place) -> None:
    place.run(place.file("a", "x"))
    (place.root / "link").symlink_to(place.state.parent)
    with pytest.raises(ManifestError, match="where the manifests are kept"):
        place.run(exclusive=(Exclusive(str(place.root / "link" / "state")),))
    assert (place.state / "service.json").exists()


# Kills


def before_kill(place: Place) -> None:
    """A host with an old unit, which the next list replaces, moves and removes."""
    place.run(
        place.directory("dropped"),
        place.file("dropped/unit", "old", owes=("systemd", "old"), before_remove=("true",)),
        place.file("changed", "old", owes=("qwen",)),
        place.file("mode", "same", mode=0o600),
    )
    (place.root / "drop-ins").mkdir()
    (place.root / "drop-ins" / "extra.conf").touch()
    _manifest.settle(str(place.state), ["old", "qwen"])
    place.log.unlink(missing_ok=True)


def wanted(place: Place) -> tuple[Item, ...]:
    return (
        place.directory("new"),
        place.file("new/unit", "new", owes=("systemd", "qwen"), validate="grep -q new %s"),
        place.file("changed", "new", owes=("qwen",)),
        place.file("mode", "same", mode=0o640),
        place.file("secret", "hunter2", secret=True, mode=0o600, owes=("gemma",)),
    )


def only_ours(place: Place) -> dict[str, Any]:
    return {"exclusive": (Exclusive(str(place.root / "drop-ins"), "*.conf", ("systemd", "extra")),)}


FINAL = {
    "changed": "new",
    "drop-ins": "<directory>",
    "mode": "same",
    "new": "<directory>",
    "new/unit": "new",
    "secret": "hunter2",
}


def run_in_child(place: Place, arm: Callable[[Host], None]) -> bool:
    """Run in a child that may kill itself; whether it was killed."""
    child = os.fork()
    if child == 0:
        try:
            host = Host(place.run_and_record)
            arm(host)
            place.run(*wanted(place), host=host, **only_ours(place))
        finally:
            sys.settrace(None)
            os._exit(0)
    _pid, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def check_mended(place: Place) -> None:
    between = place.stands()
    # Readers never see a half-written file: each is as it was, or as it is to be.
    assert between.get("changed") in ("old", "new")
    assert between.get("new/unit") in (None, "new")
    place.run(*wanted(place), **only_ours(place))
    assert place.stands() == FINAL
    assert (place.root / "mode").stat().st_mode & 0o7777 == 0o640
    # The reload ran with everything in place, the restarts are still owed.
    assert place.log.read_text(encoding="utf-8").splitlines()[-1] == "true | new"
    assert place.owed() == {"qwen", "gemma", "old", "extra"}
    assert sorted(path.name for path in place.state.iterdir()) == [".lock", "service.json"]
    assert not place.run(*wanted(place), **only_ours(place)).changed


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at_checkpoint(number: int) -> Callable[[Host], None]:
    def arm(host: Host) -> None:
        seen: list[str] = []

        def checkpoint(name: str) -> None:
            seen.append(name)
            if len(seen) == number:
                kill()

        host.checkpoint = checkpoint

    return arm


def test_a_kill_at_each_checkpoint_is_mended(quick_path: Path) -> None:
    for number in range(1, 100):
        root = quick_path / str(number)
        root.mkdir()
        place = Place(root)
        before_kill(place)
        killed = run_in_child(place, kill_at_checkpoint(number))
        check_mended(place)
        if not killed:
            break
    assert 12 < number < 60


def kill_at_line(number: int) -> Callable[[Host], None]:
    """Kill at the given line that our own code executes."""

    def arm(host: Host) -> None:
        executed = [0]

        def trace(frame: FrameType, event: str, _argument: object) -> Any:
            if "_manifest" not in frame.f_code.co_filename:
                return None
            executed[0] += event == "line"
            if executed[0] == number:
                kill()
            return trace

        sys.settrace(trace)

    return arm


@pytest.mark.parametrize("offset", range(2))
def test_a_kill_at_any_line_is_mended(quick_path: Path, offset: int) -> None:
    killed, number = True, 1 + 37 * offset
    while killed:
        root = quick_path / str(number)
        root.mkdir()
        place = Place(root)
        before_kill(place)
        killed = run_in_child(place, kill_at_line(number))
        check_mended(place)
        number += 74
    assert number > 500


def test_a_kill_and_then_another_list_leaves_no_temporary_file(place: Place) -> None:
    """As when a change is taken back after its run was killed: the files are as listed, so none is written."""
    before_kill(place)

    def arm(host: Host) -> None:
        host.checkpoint = lambda name: kill() if name.startswith("before changing") else None

    assert run_in_child(place, arm)
    assert list(place.root.rglob(".*"))
    place.run(place.file("changed", "old", owes=("qwen",)), place.file("mode", "same", mode=0o600))
    assert place.stands() == {"changed": "old", "drop-ins": "<directory>", "mode": "same"}


def test_the_fast_path_writes_and_runs_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    items = [place.file(f"f{number}", "x", validate="grep x %s", owes=("systemd",)) for number in range(50)]
    place.run(*items)
    monkeypatch.setattr(_manifest, "save", lambda *_arguments: pytest.fail("the manifest was written for nothing"))
    nothing = Host(lambda argv: pytest.fail(f"{argv} was run for nothing"))
    assert not place.run(*items, host=nothing).changed


def test_attributes_are_never_set_through_a_link(tmp_path: Path) -> None:
    """Whoever puts a link there between the look and the change does not choose what is changed."""
    (tmp_path / "target").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("target")
    for state in (FILE, DIRECTORY):
        with pytest.raises(OSError, match="link"):
            _manifest_files.set_attributes(Desired(str(tmp_path / "link"), state, 0o777, os.getuid(), os.getgid()))
    assert (tmp_path / "target").stat().st_mode & 0o7777 == 0o700


def test_a_failed_write_leaves_no_temporary_file(tmp_path: Path) -> None:
    def no_label(_temporary: str, _path: str) -> None:
        raise OSError(95, "Operation not supported")

    with pytest.raises(OSError, match="Operation not supported") as caught:
        _manifest_files.write_beside(str(tmp_path / "a"), b"x", 0o644, label=no_label)
    assert caught.value.filename == str(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []
