# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An installation on a host of rows: what it leaves, and what it takes back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.steadfast.vllm.plugins.module_utils import _nvidia_driver, _nvidia_driver_host
from ansible_collections.steadfast.vllm.plugins.module_utils import _nvidia_driver_apply as apply
from ansible_collections.steadfast.vllm.plugins.module_utils import _nvidia_driver_obstacles as obstacles
from ansible_collections.steadfast.vllm.plugins.module_utils._command import Done

from tests.nvidia_hosts import FIRST, SECURITY, installed, seen, wished

pytestmark = pytest.mark.skipif(shutil.which("dpkg-query") is None, reason="a host without dpkg has none of this")
KERNEL = "6.1.0-41-amd64"


class Host:
    """dpkg, apt-get, dkms and modinfo over one table. apt brings dkms along; `breaks` says at what it fails."""

    def __init__(self, rows: dict[str, str] | None = None, held: tuple[str, ...] = (), breaks: str = "") -> None:
        self.rows = dict(rows or {})
        self.status = {name: "hi" if name in held else "ii" for name in self.rows}
        self.breaks = breaks
        self.built: str = ""
        self.gone: list[str] = []
        self.commands: list[list[str]] = []

    def __call__(self, command: list[str], given: str = "", **_options: Any) -> Done:
        self.commands.append(list(command))
        name = Path(command[0]).name.replace("-", "_")
        verb: Any = getattr(self, name)
        answer: Done = verb(list(command[1:]), given)
        return answer

    def dpkg_query(self, _words: list[str], _given: str) -> Done:
        return Done(0, "".join(f"{self.status[name]} \t{name}\t{self.rows[name]}\t\n" for name in self.rows))

    def dpkg(self, words: list[str], given: str) -> Done:
        if words[0] == "--set-selections":
            for line in given.splitlines():
                name, _blank, selection = line.partition(" ")
                self.status[name] = "hi" if selection == "hold" else "ii"
        else:
            self.drop([word for word in words if not word.startswith("-")])
        return Done(0)

    def drop(self, names: list[str]) -> None:
        for name in names:
            self.rows.pop(name, None)
            self.status.pop(name, None)

    def put(self, name: str, version: str) -> None:
        self.rows[name] = version
        self.status[name] = self.status.get(name, "ii")

    def apt_get(self, words: list[str], _given: str) -> Done:
        verb = next((word for word in words if word in ("install", "purge", "update")), "")
        chosen = words[words.index(verb) + 1 :] if verb else []
        names = [word for before, word in zip(["", *chosen], chosen) if before != "-o" and not word.startswith("-")]
        if verb == "purge":
            self.drop(names)
        if verb == "install":
            self.put("dkms", "3.0.10")
            for word in names:
                name, _is, version = word.partition("=")
                if name.endswith("-"):
                    self.drop([name[:-1]])
                else:
                    self.put(name, version or "1")
            if self.breaks == "apt":
                self.breaks = ""
                self.status["nvidia-kernel-dkms"] = "iF"
                return Done(100, "", "E: Sub-process /usr/bin/dpkg returned an error code (1)\n")
        return Done(0)

    def dkms(self, words: list[str], _given: str) -> Done:
        if words[0] == "autoinstall" and self.breaks != "build":
            self.built = obstacles.upstream(self.rows["nvidia-kernel-dkms"])
        state = "installed" if self.built else "added"
        return Done(0, f"nvidia-current/{self.built or '535.309.01'}, {KERNEL}, x86_64: {state}\n")

    def systemctl(self, _words: list[str], _given: str) -> Done:
        return Done(0)

    def userdel(self, words: list[str], _given: str) -> Done:
        self.gone += words
        return Done(0)


@pytest.fixture
def hands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes the hands of a host, whose record lies in a folder of the test."""
    record = tmp_path / "steadfast" / "nvidia_driver" / "packages.json"
    read = _nvidia_driver_host.record
    monkeypatch.setattr(apply, "RECORD", str(record))
    monkeypatch.setattr(apply, "MODULES", str(tmp_path / "modules"))
    monkeypatch.setattr(apply, "DKMS_TREE", str(tmp_path / "dkms"))
    users = iter([False, True, True, True])
    monkeypatch.setattr(apply, "has_user", lambda name: next(users))
    monkeypatch.setattr(_nvidia_driver_host, "record", lambda: read(str(record)))

    def make(host: Host, **wishes: Any) -> apply.Hands:
        view = seen(installed=dict(host.rows), held=[name for name, status in host.status.items() if status == "hi"])
        made = _nvidia_driver.plan(wished(**wishes), view)
        assert made.problems == ()
        monkeypatch.setattr(_nvidia_driver_host, "library", lambda run: made.version)
        monkeypatch.setattr(_nvidia_driver_host, "module_version", lambda release, run: host.built)
        return apply.Hands(wished(**wishes), view, made, host)

    make.record = record  # type: ignore[attr-defined]
    return make


def test_a_bare_host_gets_the_driver_built_held_and_remembered(hands: Any) -> None:
    host = Host({"vim": "9"})
    hands(host).install()
    assert host.rows["libcuda1"] == host.rows["nvidia-kernel-dkms"] == SECURITY
    assert host.built == "535.309.01"
    assert [host.status[name] for name in ("nvidia-smi", "nvidia-persistenced", "dkms", "vim")] == [
        "hi",
        "hi",
        "ii",
        "ii",
    ]
    added = json.loads(hands.record.read_text())["added"]
    assert added == sorted(set(host.rows) - {"vim"})
    assert hands.record.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("breaks", ["apt", "build"])
def test_what_fails_is_taken_back(hands: Any, breaks: str) -> None:
    host = Host({"vim": "9"}, breaks=breaks)
    with pytest.raises(apply.Failed) as failure:
        hands(host).install()
    assert (host.rows, host.status) == ({"vim": "9"}, {"vim": "ii"})
    assert "the host is as it was" in str(failure.value)
    assert host.gone == ["nvpd"]
    assert not hands.record.exists()
    reason = {
        "apt": "returned an error code",
        "build": f"did not build the modules of 535.309.01 for the kernel {KERNEL}",
    }
    assert reason[breaks] in str(failure.value)


def test_an_upgrade_that_fails_gives_the_version_and_its_holds_back(hands: Any) -> None:
    before = {**installed(FIRST), "dkms": "3.0.10"}
    host = Host(before, held=("nvidia-smi", "libcuda1"), breaks="build")
    with pytest.raises(apply.Failed):
        hands(host, version="535.309.01").install()
    assert host.rows == before
    assert {name for name, status in host.status.items() if status == "hi"} == {"nvidia-smi", "libcuda1"}


def test_an_upgrade_remembers_what_came_before_too(hands: Any) -> None:
    hands.record.parent.mkdir(parents=True)
    hands.record.write_text(json.dumps({"added": ["libcuda1", "gone"]}))
    host = Host({**installed(FIRST)})
    hands(host, version="535.309.01").install()
    assert json.loads(hands.record.read_text())["added"] == ["dkms", "libcuda1"]


def test_removal_forgets_all(hands: Any) -> None:
    host = Host({"vim": "9"})
    hands(host).install()
    plan = _nvidia_driver.Plan(remove=tuple(name for name in host.rows if name != "vim"), unhold=("nvidia-smi",))
    apply.Hands(wished(state="absent"), seen(), plan, host).remove()
    assert host.rows == {"vim": "9"}
    assert not hands.record.parent.exists()


def test_lists_of_kernels_that_are_not_there_are_swept(tmp_path: Path) -> None:
    for name in ("6.1.0/modules.dep", "6.2.0/modules.dep", "6.2.0/kernel/x.ko", "6.3.0/build/Makefile"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "6.4.0").mkdir()
    apply.remove_leftovers(str(tmp_path))
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["6.2.0", "6.3.0", "6.4.0"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nvidia-current/535.309.01, 6.1.0-41-amd64, x86_64: installed\n", True),
        ("nvidia-current/535.309.01, 6.1.0-41-amd64, x86_64: installed (WARNING! Diff ...)\n", True),
        ("nvidia/535.309.01, 6.1.0-41-amd64, x86_64: built\n", False),
        ("nvidia-current/535.309.01, 6.1.0-42-amd64, x86_64: installed\n", False),
        ("nvidia-current/535.261.03, 6.1.0-41-amd64, x86_64: installed\n", False),
        ("zfs/535.309.01, 6.1.0-41-amd64, x86_64: installed\n", False),
        ("", False),
    ],
)
def test_dkms_s_words_for_a_module_that_is_there(text: str, expected: bool) -> None:
    assert apply.built(text, "535.309.01", KERNEL) is expected


def test_the_end_of_the_newest_log_is_told(tmp_path: Path) -> None:
    log = tmp_path / "nvidia-current" / "535.309.01" / "build" / "make.log"
    log.parent.mkdir(parents=True)
    log.write_text("".join(f"line {number}\n" for number in range(50)) + "\nerror: implicit declaration\n")
    told = apply.make_log(log.stat().st_mtime - 1, str(tmp_path))
    assert told.startswith(f"{log} ends with:\n") and told.endswith("error: implicit declaration")
    assert "line 10\n" not in told
    assert apply.make_log(log.stat().st_mtime + 1, str(tmp_path)) == ""


def test_a_host_as_planned_has_nothing_due() -> None:
    host = seen(installed=installed(), module="535.309.01", held=list(installed()))
    plan = _nvidia_driver.plan(wished(), host)
    assert apply.due(plan, host) == []
    assert apply.due(plan, {**host, "module": ""}) == [f"build the kernel modules of 535.309.01 for {KERNEL}"]
    assert apply.due(plan, {**host, "held": []})[0] == "hold nvidia-smi"


def test_the_diff_shows_versions_and_holds() -> None:
    host = seen(installed=installed(FIRST), held=["nvidia-smi"])
    plan = _nvidia_driver.plan(wished(version="535.309.01", hold=[]), host)
    shown = apply.changes(plan, host)
    assert f"nvidia-smi {FIRST} hold\n" in shown["before"]
    assert f"nvidia-smi {SECURITY}\n" in shown["after"]
    assert "persistenced" not in shown["before"] + shown["after"]


class Loaded(Host):
    """A GPU's host: services and modules that are loaded. `breaks: rmmod` is a module that something uses."""

    running = ("nvidia-persistenced.service", "vllm-keeper.service")

    def systemctl(self, words: list[str], _given: str) -> Done:
        active = "active" if words[-1] in self.running else "inactive"
        return Done(0, f"LoadState=loaded\nActiveState={active}\n")

    def rmmod(self, _words: list[str], _given: str) -> Done:
        return Done(1 if self.breaks == "rmmod" else 0)

    def modprobe(self, _words: list[str], _given: str) -> Done:
        return Done(0)


@pytest.mark.parametrize("breaks", ["", "rmmod"])
def test_modules_of_another_version_are_taken_out_where_nothing_uses_them(
    hands: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, breaks: str
) -> None:
    modules = tmp_path / "proc-modules"
    modules.write_text("nvidia_uvm 1 0 - Live 0x0\nvim 1 0 - Live 0x0\nnvidia 1 1 nvidia_uvm, Live 0x0\n")
    monkeypatch.setattr(apply, "LOADED", str(modules))
    old, new = {"version": "535.261.03"}, {"version": "535.309.01"}
    answers = iter([old] if breaks else [None, new])
    monkeypatch.setattr(apply._gpu_host, "loaded", lambda: next(answers))
    host = Loaded(installed(FIRST), breaks=breaks)
    made = hands(host, version="535.309.01")
    made.seen.update(loaded=old, library="535.309.01")
    made.load()
    done = [" ".join(command) for command in host.commands]
    changed = [line for line in done if not line.startswith("systemctl show")]
    units = ("nvidia-persistenced.service", "vllm-keeper.service")
    # Where it cannot be, a reboot is owed, and until then all runs as before.
    assert changed == [
        *(f"systemctl stop {unit}" for unit in reversed(units)),
        "rmmod nvidia_uvm nvidia",
        *([] if breaks else ["modprobe nvidia"]),
        *(f"systemctl start {unit}" for unit in units),
    ]
    assert made.seen["loaded"] == (old if breaks else new)


@pytest.mark.parametrize(
    "changes",
    [
        {"loaded": {"version": "535.309.01"}},
        # A reboot is owed since an earlier run, and servers go on meanwhile.
        {"loaded": {"version": "535.261.03"}, "users": [{"pid": 7, "command": "VLLM::Worker"}]},
    ],
    ids=["same version", "in use"],
)
def test_loaded_modules_stay(hands: Any, changes: dict[str, Any]) -> None:
    host = Loaded(installed())
    made = hands(host)
    made.seen.update(library="535.309.01", **changes)
    made.load()
    assert not any(command[0] in ("rmmod", "modprobe", "systemctl") for command in host.commands)
