# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The laws of the plan, on invented hosts."""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

import pytest
from ansible_collections.steadfast.vllm.plugins.module_utils import _manifest_plan as p
from ansible_collections.steadfast.vllm.plugins.module_utils._manifest_exclusive import Exclusive, matching, warnings
from ansible_collections.steadfast.vllm.plugins.module_utils._manifest_plan import (
    Actual,
    Desired,
    Entry,
    Manifest,
    Plan,
    Step,
    plan,
)
from hypothesis import given, settings
from hypothesis import strategies as st

DIRECTORIES = ("/d", "/d/e", "/g")
FILES = ("/d/a", "/d/b", "/d/e/f", "/g/h", "/x")
NAMES = ("systemd", "qwen", "gemma")

names = st.lists(st.sampled_from(NAMES), unique=True, max_size=2).map(tuple)
modes = st.sampled_from([0o600, 0o644])
digests = st.sampled_from(["one", "two"])


def desired_at(path: str) -> st.SearchStrategy[Desired]:
    if path in DIRECTORIES:
        return st.builds(Desired, st.just(path), st.just(p.DIRECTORY), modes, owes=names)
    return st.builds(Desired, st.just(path), st.just(p.FILE), modes, digest=digests, owes=names)


def some(paths: tuple[str, ...]) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(paths), unique=True)


lists = some(DIRECTORIES + FILES).flatmap(lambda paths: st.tuples(*(desired_at(path) for path in paths)))


def entry_at(path: str) -> st.SearchStrategy[Entry]:
    if path in DIRECTORIES:
        return st.builds(Entry, st.just(path), st.just(p.DIRECTORY), names, made=st.booleans())
    return st.builds(Entry, st.just(path), st.just(p.FILE), names)


manifests = st.builds(
    Manifest,
    some(DIRECTORIES + FILES).flatmap(lambda paths: st.fixed_dictionaries({path: entry_at(path) for path in paths})),
    st.frozensets(st.sampled_from(NAMES)),
)


@st.composite
def hosts(draw: st.DrawFn) -> dict[str, Actual]:
    """A host where some of the paths stand, and foreign files in some directories."""
    host: dict[str, Actual] = {}
    for path in draw(some((*DIRECTORIES, *FILES, "/d/foreign", "/g/foreign"))):
        if path in DIRECTORIES:
            host[path] = Actual(p.DIRECTORY, draw(modes))
        else:
            kind = draw(st.sampled_from([p.FILE, p.FILE, p.LINK]))
            host[path] = Actual(kind, draw(modes), digest=draw(digests) if kind == p.FILE else "")
    return with_children(host)


def with_children(host: dict[str, Actual]) -> dict[str, Actual]:
    """The same host with its directories' children counted."""
    result = {}
    for path, now in host.items():
        children = {PurePosixPath(other).name for other in host if str(PurePosixPath(other).parent) == path}
        result[path] = replace(now, children=frozenset(children)) if now.kind == p.DIRECTORY else now
    return result


def take(host: dict[str, Actual], steps: tuple[Step, ...], desired: tuple[Desired, ...]) -> dict[str, Actual]:
    """What the steps make of a host."""
    listed = {item.path: item for item in desired}
    host = dict(host)
    for step in steps:
        if step.verb in (p.REMOVE, p.FORGET):
            host.pop(step.path, None)
        else:
            item = listed[step.path]
            host[step.path] = Actual(item.state, item.mode, item.uid, item.gid, item.digest)
    return with_children(host)


@settings(max_examples=60, deadline=None)
@given(lists, manifests, hosts())
def test_a_second_run_has_nothing_to_do(
    desired: tuple[Desired, ...], manifest: Manifest, host: dict[str, Actual]
) -> None:
    first = plan(desired, manifest, host)
    again = plan(desired, first.final, take(host, first.steps, desired))
    assert again.steps == ()
    assert again.final == first.final


@settings(max_examples=60, deadline=None)
@given(lists, manifests, hosts())
def test_everything_listed_stands_as_listed(
    desired: tuple[Desired, ...], manifest: Manifest, host: dict[str, Actual]
) -> None:
    after = take(host, plan(desired, manifest, host).steps, desired)
    for item in desired:
        now = after[item.path]
        assert (now.kind, now.mode, now.uid, now.gid, now.digest) == (item.state, item.mode, 0, 0, item.digest)


@settings(max_examples=60, deadline=None)
@given(lists, manifests, hosts())
def test_only_what_the_manifest_knew_and_nobody_lists_is_removed(
    desired: tuple[Desired, ...], manifest: Manifest, host: dict[str, Actual]
) -> None:
    decided = plan(desired, manifest, host)
    listed = {item.path for item in desired}
    removed = {step.path for step in decided.steps if step.verb == p.REMOVE}
    assert removed <= set(manifest.entries) - listed
    for path in removed & set(DIRECTORIES):
        assert manifest.entries[path].made
        assert {f"{path}/{child}" for child in host[path].children} <= removed
    gone_files = {path for path in manifest.entries if path in FILES and path not in listed}
    assert gone_files & set(host) <= removed
    assert set(host) - set(take(host, decided.steps, desired)) == removed


@settings(max_examples=60, deadline=None)
@given(lists, manifests, hosts())
def test_what_is_written_ahead_covers_old_and_new(
    desired: tuple[Desired, ...], manifest: Manifest, host: dict[str, Actual]
) -> None:
    decided = plan(desired, manifest, host)
    leaving = {step.path for step in decided.steps if step.verb in (p.REMOVE, p.FORGET)}
    assert set(decided.ahead.entries) == {item.path for item in desired} | leaving
    assert set(decided.final.entries) == {item.path for item in desired}
    owes = {name for step in decided.steps for name in step.owes}
    assert decided.ahead.owed == decided.final.owed == manifest.owed | owes


@settings(max_examples=60, deadline=None)
@given(lists, manifests, hosts(), st.integers(min_value=0, max_value=20))
def test_a_kill_between_any_two_steps_is_mended(
    desired: tuple[Desired, ...], manifest: Manifest, host: dict[str, Actual], killed_after: int
) -> None:
    whole = plan(desired, manifest, host)
    left = take(host, whole.steps[:killed_after], desired)
    second = plan(desired, whole.ahead, left)
    assert take(left, second.steps, desired) == take(host, whole.steps, desired)
    assert second.final.owed == whole.final.owed
    assert second.final.entries == whole.final.entries


@settings(max_examples=60, deadline=None)
@given(lists, lists, manifests, hosts(), st.integers(min_value=0, max_value=20))
def test_after_a_kill_another_list_still_removes_what_was_written(
    desired: tuple[Desired, ...],
    other: tuple[Desired, ...],
    manifest: Manifest,
    host: dict[str, Actual],
    killed_after: int,
) -> None:
    whole = plan(desired, manifest, host)
    done = whole.steps[:killed_after]
    left = take(host, done, desired)
    second = plan(other, whole.ahead, left)
    after = take(left, second.steps, other)
    written = {step.path for step in done if step.verb == p.WRITE} - {item.path for item in other}
    assert not written & set(after)
    assert {name for step in done for name in step.owes} <= second.final.owed


@settings(max_examples=60, deadline=None)
@given(lists, manifests, hosts(), st.integers(min_value=0, max_value=20))
def test_after_an_error_only_what_was_done_is_owed_and_nothing_is_forgotten(
    desired: tuple[Desired, ...], manifest: Manifest, host: dict[str, Actual], failed_after: int
) -> None:
    whole = plan(desired, manifest, host)
    done = whole.steps[:failed_after]
    truth = p.after(manifest, done, whole.final)
    assert truth.owed == manifest.owed | {name for step in done for name in step.owes}
    removed = {step.path for step in done if step.verb in (p.REMOVE, p.FORGET)}
    written = {step.path for step in done} - removed
    assert set(truth.entries) == (set(manifest.entries) - removed) | written


rules = st.lists(
    st.builds(Exclusive, st.sampled_from(DIRECTORIES), st.sampled_from(["*", "f*", "a", "?", "[!a]", "none"]), names),
    max_size=3,
)
some_claimed = st.frozensets(st.sampled_from((*FILES, "/d/foreign", "/g/foreign")), max_size=3)


def visible(host: dict[str, Actual]) -> dict[str, Actual]:
    """The same host without what lies in no directory: only what a directory shows can be found in it."""

    def shown(path: str) -> bool:
        above = str(PurePosixPath(path).parent)
        return above == "/" or (above in host and host[above].kind == p.DIRECTORY and shown(above))

    return with_children({path: now for path, now in host.items() if shown(path)})


def covers(rule: Exclusive, path: str) -> bool:
    place = PurePosixPath(path)
    return str(place.parent) == rule.path and fnmatchcase(place.name, rule.pattern)


@settings(max_examples=100, deadline=None)
@given(lists, manifests, hosts(), rules, some_claimed)
def test_exclusive_removes_exactly_what_a_pattern_covers_and_nobody_lists(
    desired: tuple[Desired, ...],
    manifest: Manifest,
    host: dict[str, Actual],
    exclusive: list[Exclusive],
    claimed: frozenset[str],
) -> None:
    host = visible(host)
    decided = plan(desired, manifest, host, matching(exclusive, host), claimed)
    listed = {item.path for item in desired}
    removed = {step.path: step for step in decided.steps if step.verb == p.REMOVE}
    covered = {
        path for path, now in host.items() if now.kind != p.DIRECTORY and any(covers(rule, path) for rule in exclusive)
    }
    assert not set(removed) & listed
    assert set(removed) - set(manifest.entries) == covered - listed - claimed - set(manifest.entries)
    assert (covered & claimed) - listed - set(manifest.entries) <= set(decided.kept)
    assert not set(removed) & set(decided.kept)
    for path in set(removed) - set(manifest.entries):
        owes = {name for rule in exclusive if covers(rule, path) for name in rule.owes}
        assert set(removed[path].owes) == owes <= decided.ahead.owed
    # Written ahead is the debt, not the file: it never becomes the manifest's own.
    assert set(decided.ahead.entries) <= listed | set(manifest.entries)
    after = take(host, decided.steps, desired)
    again = plan(desired, decided.final, after, matching(exclusive, after), claimed)
    assert (again.steps, again.final) == ((), decided.final)


@settings(max_examples=60, deadline=None)
@given(lists, manifests, hosts(), rules, st.integers(min_value=0, max_value=20))
def test_a_kill_between_removals_of_extra_files_keeps_the_debt(
    desired: tuple[Desired, ...],
    manifest: Manifest,
    host: dict[str, Actual],
    exclusive: list[Exclusive],
    killed_after: int,
) -> None:
    host = visible(host)
    whole = plan(desired, manifest, host, matching(exclusive, host))
    left = take(host, whole.steps[:killed_after], desired)
    second = plan(desired, whole.ahead, left, matching(exclusive, left))
    assert take(left, second.steps, desired) == take(host, whole.steps, desired)
    assert second.final == whole.final


def test_a_directory_that_was_made_goes_with_its_last_extra_file() -> None:
    manifest = Manifest({"/d": Entry("/d", p.DIRECTORY, made=True), "/d/a": Entry("/d/a", owes=("known",))})
    host = with_children(
        {"/d": Actual(p.DIRECTORY), "/d/a": Actual(p.FILE), "/d/b": Actual(p.LINK), "/d/c": Actual(p.OTHER)}
    )
    kept = plan([], manifest, host, matching([Exclusive("/d", owes=("extra",))], host))
    assert kept.steps == (Step(p.REMOVE, "/d/a", ("known",)), Step(p.REMOVE, "/d/b", ("extra",)))
    assert kept.kept == ("/d",)
    del host["/d/c"]
    host = with_children(host)
    gone = plan([], manifest, host, matching([Exclusive("/d", owes=("extra",))], host))
    assert [step.path for step in gone.steps] == ["/d/a", "/d/b", "/d"]


def test_what_stands_at_the_place_of_an_exclusive_directory_is_told() -> None:
    exclusive = [Exclusive("/gone"), Exclusive("/d"), Exclusive("/link"), Exclusive("/link", "a"), Exclusive("/x")]
    host = {"/d": Actual(p.DIRECTORY), "/link": Actual(p.LINK), "/x": Actual(p.FILE)}
    link, file = warnings(exclusive, host)
    assert link.startswith("/link: is a symbolic link, so nothing in it was looked at")
    assert file.startswith("/x: is no directory")
    assert matching(exclusive, host) == {}


@pytest.mark.parametrize(
    ("desired", "now", "says"),
    [
        (Desired("/a"), Actual(p.DIRECTORY), "is to be a file but is a directory"),
        (Desired("/a"), Actual(p.OTHER), "is a device, socket or pipe"),
        (Desired("/a", p.DIRECTORY), Actual(p.LINK), "never managed through a link"),
        (Desired("/a", p.DIRECTORY), Actual(p.FILE), "is to be a directory but is something else"),
    ],
)
def test_what_cannot_be_replaced_is_a_problem(desired: Desired, now: Actual, says: str) -> None:
    (problem,) = plan([desired], Manifest(), {"/a": now}).problems
    assert problem.startswith("/a: ")
    assert says in problem


def one(desired: Desired, now: Actual, manifest: Manifest | None = None) -> Plan:
    return plan([desired], manifest or Manifest(), {desired.path: now})


def test_mending_mode_or_owner_owes_nothing() -> None:
    decided = one(Desired("/a", digest="one", owes=("qwen",)), Actual(p.FILE, 0o600, digest="one"))
    assert decided.steps == (Step(p.ATTRIBUTES, "/a"),)
    assert decided.final.owed == frozenset()


def test_a_link_at_a_files_place_is_replaced() -> None:
    decided = one(Desired("/a", digest="one", owes=("qwen",)), Actual(p.LINK, 0o777))
    assert decided.steps == (Step(p.WRITE, "/a", ("qwen",)),)


def test_a_removal_owes_what_the_file_owed() -> None:
    manifest = Manifest({"/a": Entry("/a", owes=("systemd",), before_remove=("stop",))})
    decided = plan([], manifest, {"/a": Actual(p.FILE)})
    assert decided.steps == (Step(p.REMOVE, "/a", ("systemd",), ("stop",)),)
    assert decided.final == Manifest(owed=frozenset({"systemd"}))


def test_what_somebody_else_removed_is_forgotten_but_owed() -> None:
    decided = plan([], Manifest({"/a": Entry("/a", owes=("systemd",))}), {})
    assert decided.steps == (Step(p.FORGET, "/a", ("systemd",)),)
    assert decided.final.owed == {"systemd"}


def test_a_directory_that_was_there_before_is_kept() -> None:
    entries = {"/d": Entry("/d", p.DIRECTORY, made=False), "/g": Entry("/g", p.DIRECTORY, made=True)}
    decided = plan([], Manifest(entries), {"/d": Actual(p.DIRECTORY), "/g": Actual(p.DIRECTORY)})
    assert [step.path for step in decided.steps] == ["/g"]
    assert decided.kept == ("/d",)


def test_directories_come_outer_first_and_go_inner_first() -> None:
    coming = plan([Desired("/d/e/f"), Desired("/d/e", p.DIRECTORY), Desired("/d", p.DIRECTORY)], Manifest(), {})
    assert [step.path for step in coming.steps] == ["/d", "/d/e", "/d/e/f"]
    host = {
        "/d": Actual(p.DIRECTORY, children=frozenset({"e"})),
        "/d/e": Actual(p.DIRECTORY, children=frozenset({"f"})),
        "/d/e/f": Actual(p.FILE),
    }
    assert [step.path for step in plan([], coming.final, host).steps] == ["/d/e/f", "/d/e", "/d"]
