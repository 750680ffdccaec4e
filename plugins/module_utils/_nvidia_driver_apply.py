# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The hands of _nvidia_driver.py (private to this collection, runs on the host): install, build, hold, verify, remove.

What fails is taken back: packages that came are purged, those that changed get their version back, holds are restored.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import pwd
import re
import shutil
import time
import typing as t
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from ansible_collections.steadfast.vllm.plugins.module_utils import (
    _gpu_host,
    _nvidia_driver_files,
    _nvidia_driver_host,
)
from ansible_collections.steadfast.vllm.plugins.module_utils import _nvidia_driver_obstacles as obstacles
from ansible_collections.steadfast.vllm.plugins.module_utils._apt_view import View, environment, errors_of, last_lines
from ansible_collections.steadfast.vllm.plugins.module_utils._command import Done, Runner
from ansible_collections.steadfast.vllm.plugins.module_utils._nvidia_driver import Plan
from ansible_collections.steadfast.vllm.plugins.module_utils._nvidia_driver_host import MODULES, RECORD, Package

# What of the driver's own uses its modules, and these in the order in which they can go.
OWN_UNITS = (
    "vllm-keeper.service", "nvidia-dcgm.service", "nvidia-fabricmanager.service", "nvidia-persistenced.service",
)  # fmt: skip
LOADED, UNLOADED = "/proc/modules", ("nvidia_uvm", "nvidia_drm", "nvidia_modeset", "nvidia_peermem", "nvidia")
DKMS_TREE = "/var/lib/dkms"
# Debian's package of the persistence daemon makes this user, and leaves it behind.
DAEMON, DAEMON_PACKAGE, DAEMON_USER = "nvidia-persistenced.service", "nvidia-persistenced", "nvpd"
# dkms(8): "nvidia-current/535.309.01, 6.1.0-41-cloud-amd64, x86_64: installed", with a remark behind it at times.
BUILT = re.compile(r"^(nvidia[\w-]*)[/,] ?([\d.]+), ([^,]+), [^:]+: installed\b", re.MULTILINE)


class Failed(Exception):
    """Why the driver could not be installed or removed; the text is for the user."""


def built(text: str, version: str, kernel: str) -> bool:
    """Whether dkms says that the modules of a version are installed for a kernel."""
    return any(found[1:] == (version, kernel) for found in BUILT.findall(text))


def make_log(since: float, tree: str = DKMS_TREE) -> str:
    """The end of the log of a build that failed after `since`."""
    logs = [file for file in Path(tree).glob("nvidia*/**/make.log") if file.stat().st_mtime >= since]
    if not logs:
        return ""
    newest = max(logs, key=lambda file: file.stat().st_mtime)
    return f"{newest} ends with:\n{last_lines(newest.read_text(encoding='utf-8', errors='replace'))}"


def has_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def remove_leftovers(modules: str) -> None:
    """Folders of kernels that are not there, with nothing in them but depmod's lists, which DKMS had it write."""
    for folder in Path(modules).glob("*"):
        files = list(folder.iterdir()) if folder.is_dir() and folder.name != platform.release() else []
        if files and all(file.is_file() and file.name.startswith("modules.") for file in files):
            shutil.rmtree(folder, ignore_errors=True)


class Hands:
    """One run of changes on a host; `done` says in words what was done."""

    def __init__(self, wished: Mapping[str, t.Any], seen: dict[str, t.Any], plan: Plan, run: Runner) -> None:
        self.wished, self.seen, self.plan, self.run = wished, seen, plan, run
        self.before: dict[str, Package] = {}
        self.had_user, self.had_tree = has_user(DAEMON_USER), Path(DKMS_TREE).exists()

    def call(self, *command: str, given: str = "") -> Done:
        return self.run(list(command), environment=environment(), given=given)

    # Installing

    def install(self) -> None:
        """Make the plan true, or leave the host as it was."""
        plan, seen = self.plan, self.seen
        self.before = _nvidia_driver_host.dpkg(self.run)
        began = time.time()
        with ExitStack() as opened:
            # The apt that the plan was made with; without one there is nothing to install, only to take back.
            ours = _nvidia_driver_host.instead(self.wished, seen, _nvidia_driver_files.pin(plan.version))
            view: View = seen["view"] or opened.enter_context(View(self.run, ours))
            try:
                if plan.install or plan.remove:
                    self._packages(view)
                self._build(plan)
                self._verify(plan)
                self.select(plan.hold, plan.unhold)
                self._remember()
            except (Failed, OSError) as error:
                log = make_log(began)
                left = self._undo(view)
                raise Failed("\n".join(part for part in (str(error), log, left) if part)) from error

    def _packages(self, view: View) -> None:
        done = view.do("install", _nvidia_driver_host.words(self.plan))
        if done.status:
            raise Failed(f"apt-get install failed: {errors_of(done)}")

    def _build(self, plan: Plan) -> None:
        """Packages build for the kernel that they think of; this is for the one that was wished."""
        if not plan.dkms:
            return
        if not built(self.call("dkms", "status").output, plan.version, plan.kernel):
            self.call("dkms", "autoinstall", "-k", plan.kernel)
        said = self.call("dkms", "status").output
        if not built(said, plan.version, plan.kernel):
            told = last_lines(said, 4) or "nothing"
            raise Failed(
                f"DKMS did not build the modules of {plan.version} for the kernel {plan.kernel}; it says: {told}"
            )

    def _verify(self, plan: Plan) -> None:
        self.seen["library"] = _nvidia_driver_host.library(self.run)
        version = _nvidia_driver_host.module_version(plan.kernel, self.run)
        if plan.dkms and not version == self.seen["library"] == plan.version:
            raise Failed(
                f"the kernel modules for {plan.kernel} are {version or 'not there'}, the library is "
                f"{self.seen['library'] or 'not there'}, and {plan.version} was to be installed"
            )

    def select(self, hold: Iterable[str], unhold: Iterable[str]) -> None:
        """dpkg's selections, which apt-mark and apt-get keep to."""
        known = _nvidia_driver_host.dpkg(self.run)
        lines = [f"{name} hold" for name in hold if known.get(name, Package("", "", "")).status == "ii"]
        lines += [f"{name} install" for name in unhold if known.get(name, Package("", "", "")).status == "hi"]
        if lines:
            done = self.call("dpkg", "--set-selections", given="\n".join(lines) + "\n")
            if done.status:
                raise Failed(f"dpkg --set-selections failed: {last_lines(done.errors, 3)}")

    def _remember(self) -> None:
        """What came, beside what came in earlier runs and is still there."""
        now = _nvidia_driver_host.dpkg(self.run)
        came = [name for name, package in now.items() if _there(package) and not _there(self.before.get(name))]
        kept = [name for name in _nvidia_driver_host.record() if _there(now.get(name))]
        self._record(sorted({*came, *kept}))

    def _record(self, names: Sequence[str]) -> None:
        if names == _nvidia_driver_host.record():
            return
        file = Path(RECORD)
        if not names:
            file.unlink(missing_ok=True)
            if file.parent.is_dir() and not any(file.parent.iterdir()):
                file.parent.rmdir()
            return
        for folder in (file.parent.parent, file.parent):
            folder.mkdir(mode=0o700, exist_ok=True)
        beside = file.with_name(".packages.json.new")
        beside.write_text(json.dumps({"added": list(names)}, indent=1) + "\n", encoding="utf-8")
        beside.chmod(0o600)
        os.replace(beside, file)

    # Taking back

    def _undo(self, view: View) -> str:
        """The host as it was; what could not be taken back, in words."""
        now = _nvidia_driver_host.dpkg(self.run)
        came = [name for name, package in now.items() if package.status != "rc" and not _known(self.before.get(name))]
        said = ""
        if came:
            # dpkg itself: apt refuses to work where a package is half configured.
            said = last_lines(self.call("dpkg", "--purge", "--force-remove-reinstreq", *came).errors, 3)
        now = _nvidia_driver_host.dpkg(self.run)
        other = {
            name: package.version
            for name, package in self.before.items()
            if _there(package) and (not _there(now.get(name)) or now[name].version != package.version)
        }
        if other:
            view.pin(_nvidia_driver_files.PIN, "")
            done = view.do("install", [f"{name}={version}" for name, version in other.items()])
            said = errors_of(done) if done.status else said
        self._tidy()
        traces = [name for name in _nvidia_driver_host.dpkg(self.run) if name not in self.before]
        if traces:
            self.call("dpkg", "--purge", *traces)
        held = [name for name, package in self.before.items() if package.status == "hi"]
        self.select(held, [name for name in (*self.plan.hold, *self.plan.unhold) if name not in held])
        now = _nvidia_driver_host.dpkg(self.run)
        left = sorted(name for name in {*now, *self.before} if _state(now.get(name)) != _state(self.before.get(name)))
        if left:
            return f"These packages could not be taken back: {', '.join(left)} ({said}): apt-get --fix-broken install"
        return "What was installed has been taken back; the host is as it was."

    # Removing

    def remove(self) -> None:
        """The driver and what came with it go; the record of it too."""
        self.select((), self.plan.unhold)
        if self.plan.remove:
            with View(self.run, {}) as view:
                done = view.do("purge", self.plan.remove)
            if done.status:
                raise Failed(f"apt-get purge failed: {errors_of(done)}")
        # What came with it has left nothing but what Debian's packages leave; the key that DKMS signs with stays.
        self.had_user, self.had_tree = DAEMON_PACKAGE not in self.plan.remove, True
        self._tidy()
        self._record([])

    def _tidy(self) -> None:
        """What packages leave behind when they are purged, as far as it came with them."""
        installed = _nvidia_driver_host.dpkg(self.run)
        if not _there(installed.get(DAEMON_PACKAGE)):
            self._quiet("systemctl", "reset-failed", DAEMON)
            if not self.had_user and has_user(DAEMON_USER):
                self._quiet("userdel", DAEMON_USER)
        if not _there(installed.get("dkms")):
            if not self.had_tree:
                shutil.rmtree(DKMS_TREE, ignore_errors=True)
            remove_leftovers(MODULES)

    def _quiet(self, *command: str) -> None:
        with contextlib.suppress(OSError):
            self.call(*command)

    # Loading

    def load(self) -> None:
        """Load the modules where a GPU waits for them; where that does not work, a reboot is owed, and said so."""
        loaded, stopped = self.seen["loaded"], list[str]()
        other = loaded and loaded["version"] != self.seen["library"]
        # Where something else is due than a swap, servers may run: what serves them is not stopped for a try.
        if self.seen["gpus"] and other and not obstacles.in_use(self.seen):
            stopped = self._unload()
        if self.seen["gpus"] and self.seen["loaded"] is None:
            self._quiet("modprobe", "nvidia")
            self.seen["loaded"] = _gpu_host.loaded()
        if self.seen["loaded"] is None:
            # The package has started its daemon, which found no GPU; it starts once there is one.
            self._quiet("systemctl", "reset-failed", DAEMON)
        for unit in reversed(stopped):
            self._quiet("systemctl", "start", unit)

    def _unload(self) -> list[str]:
        """Take out modules of another version than the libraries; the units that were stopped for it.

        The kernel refuses that while anything uses them.
        """
        running = [unit for unit in OWN_UNITS if _nvidia_driver_host.service(unit, self.run)["active"]]
        for unit in running:
            self._quiet("systemctl", "stop", unit)
        with contextlib.suppress(OSError):
            lines = Path(LOADED).read_text(encoding="ascii").splitlines()
            names = {line.partition(" ")[0] for line in lines}
            self.run(["rmmod", *(name for name in UNLOADED if name in names)], environment=environment(), timeout=60)
        self.seen["loaded"] = _gpu_host.loaded()
        return running


def _there(package: Package | None) -> bool:
    return package is not None and package.status[1:2] == "i"


def _known(package: Package | None) -> bool:
    return package is not None and package.status != "rc"


def _state(package: Package | None) -> tuple[str, str]:
    return (package.status, package.version) if package and package.status != "rc" else ("", "")


def due(plan: Plan, seen: Mapping[str, t.Any]) -> list[str]:
    """What there is to do, in words; nothing where the host is as planned."""
    if plan.drops:
        return [f"remove the packages of the module stream {plan.drops}"]
    if plan.stream:
        # dnf knows by itself which packages are there.
        return [] if plan.stream == seen["stream"] else [f"enable the module stream {plan.stream}"]
    found = [f"install {name} {plan.packages[name]}".rstrip() for name in plan.install]
    found += [f"remove {name}" for name in plan.remove if name in seen["installed"]]
    if plan.dkms and seen["module"] != plan.version:
        found.append(f"build the kernel modules of {plan.version} for {plan.kernel}")
    found += [f"hold {name}" for name in plan.hold if name not in seen["held"]]
    found += [f"release the hold of {name}" for name in plan.unhold]
    return found


def changes(plan: Plan, seen: Mapping[str, t.Any]) -> dict[str, str]:
    """Before and after of the packages and holds that change, for --diff."""
    held = set(seen["held"])
    before, after = [], []
    for name in sorted({*plan.install, *plan.remove, *plan.hold, *plan.unhold}):
        old = seen["installed"].get(name, "")
        wanted = "" if name in plan.remove else plan.packages.get(name) or old or "any version"
        marks = (" hold" if name in held else "", " hold" if name in plan.hold else "")
        if (old, marks[0]) != (wanted, marks[1] if wanted else ""):
            before += [f"{name} {old}{marks[0]}"] if old else []
            after += [f"{name} {wanted}{marks[1]}"] if wanted else []
    return {"before": "\n".join([*before, ""]), "after": "\n".join([*after, ""])}
