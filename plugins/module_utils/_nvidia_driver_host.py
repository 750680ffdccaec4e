# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The eyes of _nvidia_driver.py (private to this collection, runs on the host). Nothing here changes anything.

A host whose driver is as wished costs no look at a repository.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import typing as t
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path

from ansible_collections.steadfast.vllm.plugins.module_utils import (
    _apt_sources,
    _gpu_host,
    _host,
    _nvidia_driver,
    _nvidia_driver_files,
)
from ansible_collections.steadfast.vllm.plugins.module_utils import _nvidia_driver_obstacles as obstacles
from ansible_collections.steadfast.vllm.plugins.module_utils import _nvidia_driver_tables as tables
from ansible_collections.steadfast.vllm.plugins.module_utils._apt_view import LISTS, View, environment
from ansible_collections.steadfast.vllm.plugins.module_utils._command import Runner
from ansible_collections.steadfast.vllm.plugins.module_utils._nvidia_driver import Plan
from ansible_collections.steadfast.vllm.plugins.module_utils._nvidia_driver_obstacles import Problem

MODULES = "/lib/modules"
# Debian names the module nvidia-current, and its open twin nvidia-current-open; others nvidia.
MODULE = re.compile(r"nvidia(-current)?(-open)?\.ko(\.(xz|zst|gz))?\Z")
# Packages that this role has brought to a host, so that it takes those away again and no others.
RECORD = "/var/lib/steadfast/nvidia_driver/packages.json"
DPKG = ["dpkg-query", "--show", "--showformat", "${db:Status-Abbrev}\\t${Package}\\t${Version}\\t${Depends}\\n"]
# Where dnf remembers the stream that `dnf module enable` chose.
STREAM = "/etc/dnf/modules.d/nvidia-driver.module"
SMI_SECONDS = 30.0
# The keeper's process that reads GPUs all the time; by its short name it is a Python.
KEEPER, KEEPERS_READER = "vllm-keeper", "/vllm_keeper/signals/nvml.py"
# The options that both modules share; plugins/doc_fragments/nvidia_driver.py describes them.
OPTIONS: dict[str, t.Any] = {
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "source": {"type": "str", "choices": ["distribution", "nvidia", "preinstalled"], "required": True},
    "branch": {"type": "str", "default": ""},
    "version": {"type": "str", "default": ""},
    "modules": {"type": "str", "choices": ["auto", "open", "proprietary"], "default": "auto"},
    "kernel": {"type": "str", "default": ""},
    "hold": {"type": "list", "elements": "str", "choices": ["driver", "kernel"], "default": ["driver"]},
    "without_gpu": {"type": "str", "choices": ["fail", "skip", "install"], "default": "fail"},
    "reboot": {"type": "bool", "default": False},
    "container_toolkit": {"type": "bool", "default": False},
    "dcgm": {"type": "bool", "default": False},
    "repository": {"type": "str", "default": "https://developer.download.nvidia.com/compute/cuda/repos"},
    "repository_key": {"type": "str", "default": "", "no_log": False},
}


class Package(t.NamedTuple):
    """A package as dpkg has it. status: two letters, ii installed, hi held, iF half configured, rc removed."""

    status: str
    version: str
    depends: str


def packages(text: str) -> dict[str, Package]:
    """dpkg-query's answer by name; of several architectures the machine's own comes last."""
    rows = (line.split("\t") for line in text.splitlines())
    return {row[1]: Package(row[0].strip(), row[2], row[3]) for row in rows if len(row) == 4}


def dpkg(run: Runner) -> dict[str, Package]:
    """All packages that dpkg knows; none where there is no dpkg."""
    return packages(run(DPKG, environment=environment()).output) if shutil.which("dpkg-query") else {}


def release_in(depends: str) -> str:
    """The kernel that a package of headers is for, which its dependencies name: 6.1.0-41-cloud-amd64."""
    found = re.search(r"linux-headers-(\d[^\s,(]*)", depends)
    return found[1] if found else ""


def stream(text: str) -> str:
    """The module stream that is enabled, as name:stream."""
    fields = dict(line.partition("=")[::2] for line in text.splitlines())
    return f"nvidia-driver:{fields.get('stream', '')}" if fields.get("state") == "enabled" else ""


def record(path: str = RECORD) -> list[str]:
    """The packages that this role has brought."""
    try:
        return [str(name) for name in json.loads(Path(path).read_text(encoding="utf-8"))["added"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def users(proc: str = "/proc") -> list[dict[str, t.Any]]:
    """The programs that hold a device of NVIDIA's open."""
    found = []
    for folder in sorted(Path(proc).glob("[0-9]*"), key=lambda folder: int(folder.name)):
        try:
            held = any(os.readlink(link).startswith("/dev/nvidia") for link in (folder / "fd").iterdir())
        except OSError:
            # It has ended, or is somebody else's: root sees all that live.
            continue
        if held:
            ours = KEEPERS_READER in _host.text_of(f"{folder}/cmdline")
            found.append({"pid": int(folder.name), "command": KEEPER if ours else _host.text_of(f"{folder}/comm")})
    return found


def library(run: Runner) -> str:
    """The version of the driver's library, from the name of the very file that a program would load."""
    program = next(filter(os.path.exists, ("/sbin/ldconfig", "/usr/sbin/ldconfig")), "ldconfig")
    try:
        said = run([program, "-p"]).output
    except OSError:
        return ""
    for place in re.findall(r"libcuda\.so\.1 .*=> (\S+)", said):
        found = re.search(r"\.so\.(\d+\.\d+[\d.]*)\Z", os.path.realpath(place))
        if found:
            return found[1]
    return ""


def module_version(release: str, run: Runner, modules: str = MODULES) -> str:
    """The version of the kernel modules on the disk for a kernel; "" where there are none."""
    folder = Path(modules, release)
    if not release or not folder.is_dir():
        return ""
    files = sorted(file for file in folder.rglob("nvidia*.ko*") if MODULE.match(file.name))
    # depmod prefers updates/, where DKMS puts its own.
    files.sort(key=lambda file: "updates" not in file.parts)
    for file in files[:1]:
        done = run(["modinfo", "-F", "version", str(file)], environment=environment())
        return done.output.strip()
    return ""


def smi(run: Runner, bound: float = SMI_SECONDS) -> str:
    """Why nvidia-smi does not answer; nothing where it does."""
    try:
        done = run(["nvidia-smi", "-L"], environment=environment(), timeout=bound)
    except TimeoutError as error:
        return str(error)
    except OSError as error:
        return f"{error.strerror or error}"
    return "" if done.status == 0 else (done.output + done.errors).strip()[:300] or f"exit status {done.status}"


def service(name: str, run: Runner) -> dict[str, bool]:
    """Whether a unit is there, runs, and starts at boot."""
    try:
        shown = run(["systemctl", "show", "--property=LoadState,ActiveState,UnitFileState", name]).output
    except OSError:
        return {"there": False, "active": False, "enabled": False}
    fields = dict(line.partition("=")[::2] for line in shown.splitlines())
    return {
        "there": fields.get("LoadState") == "loaded",
        "active": fields.get("ActiveState") == "active",
        "enabled": fields.get("UnitFileState") in ("enabled", "static"),
    }


def kernels(headers: Iterable[str]) -> list[str]:
    """The kernels that there are headers for: the flavours, then the releases, the newest first."""
    names = [name.replace("linux-headers-", "", 1) for name in headers]
    names = [name for name in names if not re.search(r"(^|-)(common|all|dbg|rt|virtual|headers)\b", name)]
    newest = sorted(
        (name for name in names if name[:1].isdecimal()),
        key=lambda name: [int(part) for part in re.findall(r"\d+", name)],
        reverse=True,
    )
    return [*sorted(name for name in names if not name[:1].isdecimal()), *newest]


def apt_files(folder: str = "/etc/apt") -> dict[str, str]:
    """The host's own sources, not ours."""
    here = Path(folder)
    listed = [
        here / "sources.list",
        *sorted(here.glob("sources.list.d/*.list")),
        *sorted(here.glob("sources.list.d/*.sources")),
    ]
    ours = _nvidia_driver_files.SOURCES
    return {str(file): _host.text_of(str(file)) for file in listed if file.is_file() and str(file) != ours}


def origins(sources: Iterable[_apt_sources.Source], lists: str = LISTS) -> dict[str, str]:
    """Whose archive lies behind each address, as far as its index has been fetched."""
    found = {}
    for source in sources:
        for uri in source.uris:
            plain = re.sub(r"\A[a-z+]+:/*", "", uri).rstrip("/").replace("/", "_")
            for suite in source.suites:
                for kind in ("InRelease", "Release"):
                    text = _host.text_of(f"{lists}/{plain}_dists_{suite.replace('/', '_')}_{kind}")
                    origin = re.search(r"^Origin: (.*)$", text, re.MULTILINE)
                    if origin:
                        found[uri.rstrip("/")] = origin[1].strip()
    return found


def key_enrolled(run: Runner, key: str = "/var/lib/dkms/mok.pub") -> bool:
    """Whether the firmware knows the key that DKMS signs with."""
    if not Path(key).exists():
        return False
    try:
        return "already enrolled" in run(["mokutil", "--test-key", key], environment=environment()).output
    except OSError:
        return False


def initramfs() -> list[str]:
    """The command that makes the initramfs anew; nothing where there is none, as in a container."""
    programs = {
        "update-initramfs": ("/boot/initrd.img-*", ["update-initramfs", "-u", "-k", "all"]),
        "dracut": ("/boot/initramfs-*.img", ["dracut", "--force", "--regenerate-all"]),
    }
    for program, (pattern, command) in programs.items():
        if shutil.which(program, path=environment()["PATH"]) and any(Path("/").glob(pattern.lstrip("/"))):
            return command
    return []


def see(wished: Mapping[str, t.Any], run: Runner) -> dict[str, t.Any]:
    """All that can be seen without asking a repository."""
    euid = os.geteuid()
    known = dpkg(run)
    installed = {name: package.version for name, package in known.items() if package.status[1:2] == "i"}
    kernel = wished["kernel"] or platform.release()
    metas = [name for name in installed if re.match(r"linux-(image|headers)-[a-z]", name)]
    release = _host.os_release()
    files = apt_files()
    sources = _apt_sources.read(files)
    codename, whose = release.get("VERSION_CODENAME", ""), origins(sources)
    secure = _gpu_host.secure_boot()
    made: dict[str, t.Any] = {
        "euid": euid,
        "user": _host.user_name(euid),
        "os_release": release,
        "machine": platform.machine(),
        "running_kernel": platform.release(),
        "gpus": _gpu_host.gpus(),
        "switches": _gpu_host.switches(),
        "secure_boot": secure,
        "key_enrolled": bool(secure) and key_enrolled(run),
        "loaded": _gpu_host.loaded(),
        "users": [] if wished.get("users_leave") else users(),
        "installed": installed,
        "held": [name for name, package in known.items() if package.status == "hi"],
        "images": [name for name in metas if name.startswith("linux-image-")],
        "releases": {name: release_in(known[name].depends) for name in metas if "-headers-" in name},
        "build_folder": Path(MODULES, kernel, "build").exists() and f"linux-headers-{kernel}" not in installed,
        "archive_files": list(files),
        "archive": _apt_sources.own(sources, codename, whose),
        "initramfs": initramfs(),
        "programs": [
            extra.program for extra in tables.EXTRAS.values() if shutil.which(extra.program, path=environment()["PATH"])
        ],
        "pinned": _nvidia_driver_files.pinned(_host.text_of(_nvidia_driver_files.PIN)),
        "added": record(),
        "library": library(run),
        "stream": stream(_host.text_of(STREAM)),
        "available": None,
        "headers": [],
        "smi": "",
        "view": None,
    }
    recipe = obstacles.recipe(made, wished)
    wanted = recipe.components if recipe else ()
    made["lacking"] = _apt_sources.lacking(sources, codename, whose, wanted)
    return made


def installed_state(plan: Plan, seen: dict[str, t.Any], run: Runner) -> None:
    """What the installed driver is worth, added to what was seen."""
    seen["module"] = module_version(plan.kernel or seen["running_kernel"], run)
    loaded = seen["loaded"]
    if seen["gpus"] and loaded and loaded["version"] == seen["library"]:
        seen["smi"] = smi(run)


def instead(wished: Mapping[str, t.Any], seen: Mapping[str, t.Any], pin: str = "") -> dict[str, str]:
    """Our files of /etc/apt as they will be, in the place of those that may be there now."""
    files = {_nvidia_driver_files.SOURCES: _nvidia_driver_files.sources(wished, seen), _nvidia_driver_files.PIN: pin}
    if wished["source"] == "nvidia":
        files[_nvidia_driver_files.KEY] = wished["repository_key"]
    return files


def words(plan: Plan) -> list[str]:
    """The plan's packages as apt-get takes them."""
    chosen = [f"{name}={plan.packages[name]}" if plan.packages[name] else name for name in plan.install]
    return [*chosen, *[f"{name}-" for name in plan.remove]]


def rehearse(wished: Mapping[str, t.Any], seen: dict[str, t.Any], first: Plan, view: View) -> Plan:
    """The plan for a host whose driver is not as wished, with what the repositories have and what apt would do."""
    failed = view.update()
    seen["available"] = view.versions(first.asks)
    metas = [name for name in first.asks if re.match(r"linux-headers-[a-z]", name)]
    if metas:
        seen["releases"] = {**seen["releases"], **{k: release_in(v) for k, v in view.depends(metas).items()}}
    seen["headers"] = kernels(view.names("linux-headers-"))
    plan = _nvidia_driver.plan(wished, seen)
    problems = list(plan.problems)
    if failed and problems:
        where = ", ".join(sorted({uri for source in _apt_sources.read(apt_files()) for uri in source.uris}))
        why = f"the lists could not be fetched: {failed}"
        # First: what no list told of may well be there.
        problems.insert(0, Problem("apt", where, why, "mend the network or the sources, and run again"))
    if plan.version and not problems:
        view.pin(_nvidia_driver_files.PIN, _nvidia_driver_files.pin(plan.version))
        seen["trial"] = view.trial("install", words(plan))
        seen["disks"] = disks()
        problems += _nvidia_driver.simulated(plan, seen)
    return plan._replace(problems=tuple(problems))


def disks() -> list[dict[str, t.Any]]:
    """Where room is needed, and how much there is."""
    places = {"usr": "/usr", "archives": str(Path("/var", "tmp")), "build": "/var/lib/dkms"}
    found = [(use, path, _host.filesystem(path)) for use, path in places.items()]
    return [{"for": use, "path": path, "device": disk["device"], "free": disk["free"]} for use, path, disk in found]


def rehearse_removal(seen: dict[str, t.Any], plan: Plan, run: Runner) -> Plan:
    """What goes with the driver: all that came with it, as far as nothing else needs it by now."""
    brought = [name for name in seen["added"] if name in seen["installed"]]
    every = tuple(dict.fromkeys([*plan.remove, *brought]))
    with View(run, {}) as view:
        for remove in dict.fromkeys((every, plan.remove)):
            trial = view.trial("purge", remove) if remove else None
            others = [name for name in trial["removes"] if name not in remove] if trial else []
            if trial is None or not (others or trial["error"]):
                return plan._replace(remove=remove)
    needed = ", ".join(others[:5]) or (trial["error"] if trial else "")
    stuck = Problem("apt", needed, "needs the driver that is to be removed", "remove it first, and run again")
    return plan._replace(problems=(*plan.problems, stuck))


def look(wished: Mapping[str, t.Any], run: Runner, opened: ExitStack) -> tuple[Plan, dict[str, t.Any]]:
    """The plan for this host, and what it was made from; its apt, where one was asked, is closed by `opened`."""
    seen = see(wished, run)
    plan = _nvidia_driver.plan(wished, seen)
    if wished["state"] == "absent":
        if plan.remove or seen["added"]:
            plan = rehearse_removal(seen, plan, run)
    elif plan.asks:
        seen["view"] = opened.enter_context(View(run, instead(wished, seen)))
        plan = rehearse(wished, seen, plan, seen["view"])
    installed_state(plan, seen, run)
    return plan, seen
