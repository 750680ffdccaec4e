# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""apt with sources and pins that the host does not have yet (private to this collection, runs on the host).

Lists, archives and settings lie in a folder that goes away again, so that what would be installed can be known, and an
installation can fail, without a trace in /etc/apt and /var/lib/apt/lists. dpkg's database is the host's own.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import tempfile
import typing as t
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from ansible_collections.steadfast.vllm.plugins.module_utils._command import Done, Runner

LISTS = "/var/lib/apt/lists"
ETC = "/etc/apt"
# Room for hundreds of megabytes, and apt's own user may look in.
PLACE = str(Path("/var", "tmp"))
UPDATE_SECONDS = 300.0
LINE = 240
UNITS = {"B": 1, "kB": 1000, "MB": 1000**2, "GB": 1000**3}


class Trial(t.TypedDict):
    """What an installation would do. download, disk: bytes. removes: packages that go. error: why it would not."""

    error: str
    download: int
    disk: int
    removes: list[str]


def environment() -> dict[str, str]:
    """Nobody is asked, and nothing is restarted or translated."""
    quiet = {"LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive", "NEEDRESTART_SUSPEND": "1"}
    path = os.pathsep.join(dict.fromkeys([*os.environ.get("PATH", "").split(os.pathsep), "/usr/sbin", "/sbin"]))
    return {**os.environ, **quiet, "PATH": path}


def size(text: str) -> int:
    """Bytes of a size as apt writes it: 1,234 kB."""
    number, _blank, unit = text.replace(",", "").partition(" ")
    return int(float(number) * UNITS.get(unit, 1))


def last_lines(text: str, count: int = 12) -> str:
    """The end of what a program said, without its blank lines; a compiler's command line is a thousand letters long."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()][-count:]
    return "\n".join(line if len(line) <= LINE else f"{line[:LINE]} ..." for line in lines)


def errors_of(done: Done) -> str:
    """Why apt gave up: its E: lines, else all that it said last."""
    lines = [line for line in (done.errors + "\n" + done.output).splitlines() if line.startswith(("E: ", "W: "))]
    said = [line for line in lines if line.startswith("E: ")] or lines
    unmet = re.findall(r"^ (\S.*(?:Depends|Conflicts|Breaks|PreDepends).*)$", done.output, re.MULTILINE)
    return "; ".join([*said, *unmet[:5]]) or last_lines(done.output + done.errors, 3)


class View:
    """Such an apt. `sources` and `pins` are files of ours that stand in the place of those that the host has."""

    def __init__(self, run: Runner, instead: Mapping[str, str]) -> None:
        self.run = run
        self.instead = dict(instead)
        self.folder = Path()

    def __enter__(self) -> View:
        self.folder = Path(tempfile.mkdtemp(prefix="steadfast-apt-", dir=PLACE))
        self.folder.chmod(0o755)
        for name in ("lists/partial", "archives/partial", "sources.list.d", "preferences.d", "keys"):
            (self.folder / name).mkdir(parents=True)
            (self.folder / name).chmod(0o755)
        # apt fetches as a user of its own, where there is one.
        try:
            user = pwd.getpwnam("_apt").pw_uid
        except KeyError:
            user = os.geteuid()
        for name in ("lists/partial", "archives/partial"):
            os.chown(self.folder / name, user, -1)
        # What the host knows already is not fetched again; apt replaces a link, and never what it leads to.
        for index in Path(LISTS).glob("*"):
            if index.is_file() and index.name != "lock":
                (self.folder / "lists" / index.name).symlink_to(index)
        for name in ("sources.list.d", "preferences.d"):
            self._copy(name)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _copy(self, name: str) -> None:
        """The host's own files of a folder beside ours; a key among ours is found where it lies now."""
        here = Path(ETC, name)
        for file in here.glob("*"):
            if str(file) not in self.instead and file.is_file():
                shutil.copyfile(file, self.folder / name / file.name)
        keys = {path: self.folder / "keys" / Path(path).name for path in self.instead if "/keyrings/" in path}
        for path, place in keys.items():
            place.write_text(self.instead[path], encoding="utf-8")
        for path, ours in self.instead.items():
            if Path(path).parent == here and ours:
                text = ours
                for key, place in keys.items():
                    text = text.replace(key, str(place))
                (self.folder / name / Path(path).name).write_text(text, encoding="utf-8")

    def pin(self, path: str, text: str) -> None:
        """Takes a file of preferences for the next commands."""
        (self.folder / "preferences.d" / Path(path).name).write_text(text, encoding="utf-8")

    def options(self) -> list[str]:
        settings = {
            "Dir::State::Lists": self.folder / "lists",
            "Dir::Cache::Archives": self.folder / "archives",
            "Dir::Cache::pkgcache": self.folder / "pkgcache.bin",
            "Dir::Cache::srcpkgcache": self.folder / "srcpkgcache.bin",
            "Dir::Etc::SourceParts": self.folder / "sources.list.d",
            "Dir::Etc::PreferencesParts": self.folder / "preferences.d",
            "DPkg::Lock::Timeout": 120,
            "Dpkg::Use-Pty": 0,
        }
        return [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]

    def ask(self, program: str, *words: str, timeout: float = 60.0) -> Done:
        return self.run([program, *self.options(), *words], environment=environment(), timeout=timeout)

    def update(self) -> str:
        """Fetch the lists; why it failed, or nothing."""
        try:
            done = self.ask("apt-get", "update", timeout=UPDATE_SECONDS)
        except TimeoutError as error:
            return f"apt-get update: {error}"
        # Of several sources one may fail with a warning, and its packages are those of yesterday.
        failed = re.findall(r"^(?:Err:\d+ .*|W: Failed to fetch .*)$", done.output + done.errors, re.MULTILINE)
        return errors_of(done) if done.status else "; ".join(failed)

    def versions(self, names: Iterable[str]) -> dict[str, list[str]]:
        """What there is of each package, the newest first."""
        found: dict[str, list[str]] = {}
        for line in self.ask("apt-cache", "madison", *names).output.splitlines():
            words = [word.strip() for word in line.split("|")]
            if len(words) == 3 and words[2].endswith("Packages") and words[1] not in found.setdefault(words[0], []):
                found[words[0]].append(words[1])
        return found

    def depends(self, names: Iterable[str]) -> dict[str, str]:
        """The field Depends of each package."""
        said = self.ask("apt-cache", "show", "--no-all-versions", *names).output
        pairs = [
            (re.search(r"^Package: (.*)$", part, re.MULTILINE), re.search(r"^Depends: (.*)$", part, re.MULTILINE))
            for part in said.split("\n\n")
        ]
        return {name[1]: depends[1] for name, depends in pairs if name and depends}

    def names(self, prefix: str) -> list[str]:
        return sorted(self.ask("apt-cache", "pkgnames", prefix).output.split())

    def trial(self, verb: str, words: Sequence[str]) -> Trial:
        """What apt would do, and what it takes."""
        # --simulate tells no sizes. --assume-no would not do: apt asks nothing where it would do no more than its words
        # name, and goes ahead.
        done = self.ask("apt-get", verb, "--print-uris", *INSTALL_OPTIONS, *words)
        if done.status:
            return Trial(error=errors_of(done), download=0, disk=0, removes=[])
        need = re.search(r"Need to get ([\d.,]+ [kMG]?B)", done.output)
        more = re.search(r"([\d.,]+ [kMG]?B) of additional disk space will be used", done.output)
        gone = re.search(r"The following packages will be REMOVED:\n((?: .*\n)+)", done.output)
        return Trial(
            error="",
            download=size(need[1]) if need else 0,
            disk=size(more[1]) if more else 0,
            removes=[name.rstrip("*") for name in gone[1].split()] if gone else [],
        )

    def do(self, verb: str, words: Sequence[str]) -> Done:
        """Install or purge, for real. Nothing kills it: dpkg would be left in the middle of a package."""
        command = ["apt-get", *self.options(), verb, "--assume-yes", *INSTALL_OPTIONS, *words]
        return self.run(command, environment=environment())


INSTALL_OPTIONS = (
    "--no-install-recommends",
    "--allow-change-held-packages",
    "--allow-downgrades",
    "-o",
    "Dpkg::Options::=--force-confdef",
    "-o",
    "Dpkg::Options::=--force-confold",
)
