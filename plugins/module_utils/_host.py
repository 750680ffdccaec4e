# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be seen of a host without changing anything: the eyes of _preflight.py (private to this collection)."""

from __future__ import annotations

import errno
import grp
import json
import os
import platform
import pwd
import re
import typing as t
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ansible_collections.steadfast.vllm.plugins.module_utils import (
    _gpu_host,
    _manifest,
    _preflight,
    _sockets,
    _start_host,
)
from ansible_collections.steadfast.vllm.plugins.module_utils._manifest_plan import Entry

Runner = _gpu_host.Runner

UNIT_FOLDERS = (
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
)
# Where `vllm-keeper run` says where it is (vllm_keeper/runfile.py).
RUNS = "/run/vllm-keeper"
# What the keeper remembers of each instance (vllm_keeper/state.py).
HISTORIES = "/var/lib/vllm-keeper"
# Fields of /proc/PID/stat from the state on, which is 0.
PARENT, GROUP, SESSION, BORN = 1, 2, 3, 19
# A user that owns nothing: what the service user will be allowed before it exists.
STRANGER = 65534
# Enough to see that a folder cannot be read, without walking a million files.
FILES_LOOKED_AT = 2000


def look(wanted: Mapping[str, t.Any], run: Runner) -> dict[str, t.Any]:
    """Everything that the checks of the host stage ask for; `run` runs a command."""
    instances = wanted["instances"]
    ours = manifest_entries(wanted["manifest_directory"])
    our_files = [entry.path for entry in ours]
    version, python_error = python_version(wanted["python"], run)
    euid = os.geteuid()
    return {
        "euid": euid,
        "user": user_name(euid),
        "os_release": os_release(),
        "machine": platform.machine(),
        "init": text_of("/proc/1/comm") or "unknown",
        "systemd_runs": Path("/run/systemd/system").is_dir() and text_of("/proc/1/comm") == "systemd",
        "listeners": runs(_sockets.listeners({instance["port"] for instance in instances}), names(instances)),
        "our_files": our_files,
        "managers": managers(ours),
        "nvidia": bool(_gpu_host.nvidia()),
        "our_units": sorted(Path(path).name for path in our_files if path.endswith(".service")),
        "unit_files": {instance["unit"]: unit_files(instance["unit"]) for instance in instances},
        "service_user": wanted["service_user"],
        "models": {
            instance["model_path"]: model(instance["model_path"], wanted["service_user"])
            for instance in instances
            if instance["model_source"] == "path" or (instance["model_path"] and there(instance["model_path"]))
        },
        "disks": {need["path"]: filesystem(need["path"]) for need in wanted["disk"]},
        "existing": [need["unless"] for need in wanted["disk"] if need["unless"] and there(need["unless"])],
        "python": version,
        "python_error": python_error,
        "shm_total": filesystem(str(_preflight.SHM))["total"] if Path(_preflight.SHM).is_dir() else None,
        "files_max": files_max(),
        "tasks_max": tasks_max(),
        "container": in_container(),
        "time_daemons": time_daemons(),
        "start": _start_host.look(wanted, python_version(wanted["environment_python"], run)[0], run),
        **hardware(wanted, our_files, run),
    }


def hardware(wanted: Mapping[str, t.Any], our_files: Sequence[str], run: Runner) -> dict[str, t.Any]:
    """GPUs, their driver, and what is around them."""
    driver = _gpu_host.loaded()
    # Without CUDA nobody asks for it; without the module it would only fail, or load one.
    told = _gpu_host.smi(run) if wanted["cuda"] and driver else None
    if told is not None:
        units = {instance["unit"] for instance in wanted["instances"]}
        units |= {Path(path).name for path in our_files if path.endswith(".service")}
        in_docker = any(path.startswith("/etc/vllm/compose/") for path in our_files)
        for process in runs(told["processes"], names(wanted["instances"])):
            cgroup = text_of(f"/proc/{process['pid']}/cgroup")
            ours = _sockets.unit_of(cgroup) in units or process["run"] is not None
            process["ours"] = ours or (in_docker and "docker" in cgroup)
            process["command"] = _sockets.title(process["pid"]) or "gone"
    return {
        "gpus": _gpu_host.gpus(),
        "driver": driver,
        "smi": told,
        "secure_boot": _gpu_host.secure_boot(),
        "instance_type": _gpu_host.instance_type(),
        "iommu": _gpu_host.iommu(),
        "memory_total": _gpu_host.memory_total(),
    }


def text_of(path: str) -> str:
    """The content of a file without the white space around it; nothing where it cannot be read."""
    return _gpu_host.read(Path(path))


def user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def os_release(paths: Iterable[str] = ("/etc/os-release", "/usr/lib/os-release")) -> dict[str, str]:
    """os-release(5) as a dictionary."""
    text = next(filter(None, map(text_of, paths)), "")
    lines = re.findall(r"^([A-Z][A-Z0-9_]*)=(.*)$", text, re.MULTILINE)
    return {key: value.strip().strip("\"'") for key, value in lines}


def user(name: str) -> dict[str, str] | None:
    """An entry of the user database, less what is secret or nobody's business."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return None
    try:
        group = grp.getgrgid(entry.pw_gid).gr_name
    except KeyError:
        group = str(entry.pw_gid)
    return {"group": group, "home": entry.pw_dir, "shell": entry.pw_shell}


def manifest_entries(directory: str) -> list[Entry]:
    """Every file that this collection wrote on the host. A manifest that cannot be read answers for none."""
    found: dict[str, Entry] = {}
    try:
        names = _manifest.names(directory)
    except OSError:
        # Not root: that is told as a problem of its own, and must not end the look before it is.
        return []
    for name in names:
        try:
            manifest = _manifest.load(directory, name)
        except (OSError, _manifest.ManifestError):
            continue
        found.update(manifest.entries if manifest else {})
    return [entry for _path, entry in sorted(found.items())]


def managers(entries: Iterable[Entry]) -> list[str]:
    """The process managers that run something of ours, told by how what they run is to be ended."""
    found: set[str] = set()
    for entry in entries:
        words = list(entry.before_remove)
        if "--manager" in words[:-1]:
            found.add(words[words.index("--manager") + 1])
        elif words[:2] == ["systemctl", "disable"]:
            found.add("systemd")  # as version 0.1.0 had it at first
    return sorted(found)


def names(instances: Iterable[Mapping[str, t.Any]]) -> set[str]:
    return {str(instance["name"]) for instance in instances}


def runs(
    listeners: list[dict[str, t.Any]],
    planned: Iterable[str] = (),
    folder: str = RUNS,
    histories: str = HISTORIES,
    proc: str = "/proc",
) -> list[dict[str, t.Any]]:
    """Each listener with `run`: whose keeper's runner (`vllm-keeper run`) it lives below, None where it does not.

    What a runner left that was killed itself belongs to it too: the next start of that instance ends it. So it is for
    instances that are PLANNED; nobody starts the others.
    """
    runners: dict[int, str] = {}
    left = earlier_runs(planned, histories, proc)
    for file in Path(folder).glob("*.json"):
        try:
            run = json.loads(file.read_text(encoding="utf-8"))
            if stat_field(int(run["runner"]), BORN, proc) == run["born"]:
                runners[int(run["runner"])] = file.stem
        except (OSError, ValueError, KeyError, TypeError):
            continue
    for listener in listeners:
        pid = listener["pid"]
        while pid and pid not in runners:
            pid = stat_field(pid, PARENT, proc)
        listener["run"] = runners.get(pid) or orphan_of(listener["pid"], left, proc)
    return listeners


def earlier_runs(planned: Iterable[str], folder: str, proc: str) -> dict[tuple[int, int], tuple[int, str]]:
    """(process group, session) of runs since the boot: (birth of the first process, instance), as the gate has it."""
    boot = f"{text_of(f'{proc}/sys/kernel/random/boot_id')}:{stat_field(1, BORN, proc)}"
    found: dict[tuple[int, int], tuple[int, str]] = {}
    for name in planned:
        try:
            starts = json.loads(Path(folder, f"{name}.json").read_text(encoding="utf-8"))["starts"]
            for start in starts:
                if start["processes"] is not None and start["at"]["boot_id"] == boot:
                    group, session, born = map(int, start["processes"])
                    found[group, session] = (born, name)
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return found


def orphan_of(pid: int | None, left: Mapping[tuple[int, int], tuple[int, str]], proc: str) -> str | None:
    """The instance of whose earlier run a process is left: its group and session, and not born before that run."""
    if not pid:
        return None
    group, session, born = (stat_field(pid, field, proc) for field in (GROUP, SESSION, BORN))
    if group is None or session is None or born is None:
        return None
    first, name = left.get((group, session), (born + 1, None))
    return name if born >= first else None


def stat_field(pid: int, field: int, proc: str) -> int | None:
    """A number of /proc/PID/stat, counted from behind the name, which may itself hold blanks and parentheses."""
    words = text_of(f"{proc}/{pid}/stat").rpartition(")")[2].split()
    return int(words[field]) if len(words) > field else None


def unit_files(unit: str, folders: Sequence[str] = UNIT_FOLDERS) -> list[str]:
    """Where a unit of that name stands, told once where /lib is /usr/lib."""
    found: dict[str, str] = {}
    for folder in folders:
        path = Path(folder, unit)
        if path.is_symlink() or path.exists():
            found.setdefault(os.path.realpath(folder), str(path))
    return list(found.values())


def nearest(path: str) -> str:
    """The path itself, or the nearest folder above it that is there."""
    here = Path(path)
    while not there(here) and here != here.parent:
        here = here.parent
    return str(here)


def there(path: str | Path) -> bool:
    """Whether a path exists. What may not be looked at (without root) is taken for not there."""
    try:
        return Path(path).exists()
    except OSError:
        return False


def filesystem(path: str) -> dict[str, t.Any]:
    """Space where `path` is or would be. Free is what is left to all, not root's reserve."""
    place = nearest(path)
    numbers = os.statvfs(place)
    return {
        "nearest": place,
        "device": Path(place).stat().st_dev,
        "free": numbers.f_bavail * numbers.f_frsize,
        "total": numbers.f_blocks * numbers.f_frsize,
        "files": numbers.f_files,
        "files_free": numbers.f_favail,
        "read_only": bool(numbers.f_flag & os.ST_RDONLY),
    }


def python_version(path: str | None, run: Runner) -> tuple[tuple[int, ...] | None, str]:
    """The version of an interpreter, or why it has none."""
    if not path:
        return None, ""
    try:
        status, output, _errors = run([path, "-I", "-c", "import sys; print(*sys.version_info[:3], sep='.')"])
    except FileNotFoundError:
        return None, "not there"
    except OSError as failure:
        return None, str(failure)
    version = output.strip()
    if status == 0 and re.fullmatch(r"\d+(\.\d+)+", version):
        return tuple(int(part) for part in version.split(".")), ""
    return None, f"exit status {status}, no version printed"


def model(path: str, user: str) -> dict[str, t.Any]:
    """A folder with a model: what is in it, and what the service's user cannot read of it."""
    seen: dict[str, t.Any] = {
        "nearest": nearest(path),
        "kind": "folder",
        "unreadable": [],
        "config": "missing",
        "content": None,
        "pictures": {},
        "weights": [],
        "absent": [],
        "bytes": 0,
    }
    try:
        seen.update(_inside(Path(path), user))
    except PermissionError as failure:
        seen["unreadable"] = [str(failure.filename or path)]
    return seen


def _inside(folder: Path, user: str) -> dict[str, t.Any]:
    if not folder.is_dir():
        return {"kind": "file" if folder.exists() else "missing"}
    files = sorted(item for item in folder.iterdir() if item.is_file())[:FILES_LOOKED_AT]
    weights = [item for item in files if item.suffix in _preflight.WEIGHTS]
    # What vLLM reads: files in the folder itself. A hidden one (.gitattributes) may well be private.
    read = [folder, *(item for item in files if not item.name.startswith("."))]
    state, content = config_of(folder)
    return {
        "weights": [item.name for item in weights],
        "bytes": sum(item.stat().st_size for item in weights),
        "config": state,
        "content": content,
        "pictures": pictures(folder),
        "absent": absent_shards(folder),
        "unreadable": unreadable([str(item) for item in read], user),
    }


def config_of(folder: Path) -> tuple[str, dict[str, t.Any] | None]:
    """(ok or what is wrong, content) of config.json, or of params.json in Mistral's own format."""
    named = folder / "config.json"
    if not named.is_file():
        named = folder / "params.json"
    try:
        content = json.loads(named.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return "missing", None
    except (OSError, ValueError) as failure:
        return " ".join(str(failure).split()), None
    return ("ok", content) if isinstance(content, dict) else ("not a JSON object", None)


def pictures(folder: Path) -> dict[str, int]:
    """Pixels of the largest picture and video that the model's preprocessors make; what they do not say is left out.

    Read is Qwen3-VL's way of saying it: `size: {longest_edge: pixels}`.
    """
    found: dict[str, int] = {}
    for kind, name in (("image", "preprocessor_config.json"), ("video", "video_preprocessor_config.json")):
        try:
            edge = json.loads((folder / name).read_text(encoding="utf-8"))["size"]["longest_edge"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if isinstance(edge, int) and not isinstance(edge, bool) and edge > 0:
            found[kind] = edge
    return found


def absent_shards(folder: Path) -> list[str]:
    """Weight files that an index names and that are not there: a copy that was cut off."""
    absent: set[str] = set()
    for index in folder.glob("*.index.json"):
        try:
            shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
            absent.update(str(name) for name in shards if not (folder / str(name)).is_file())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            absent.add(f"{index.name} (cannot be read)")
    return sorted(absent)


def unreadable(paths: Sequence[str], user: str) -> list[str]:
    """The paths that a user cannot open, asked of the kernel itself, so that ACLs and mounts count too."""
    try:
        entry = pwd.getpwnam(user)
        uid, gid, groups = entry.pw_uid, entry.pw_gid, os.getgrouplist(user, entry.pw_gid)
    except KeyError:
        uid, gid, groups = STRANGER, STRANGER, []
    if os.geteuid() != 0:
        return [path for path in paths if not _opens(path)]
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        # Only system calls from here on: the parent may have had threads.
        status = 1
        try:
            os.setgroups(groups)
            os.setgid(gid)
            os.setuid(uid)
            answer = b"".join(b"0" if _opens(path) else b"1" for path in paths)
            with os.fdopen(writer, "wb") as pipe:
                pipe.write(answer)
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answers = pipe.read()
    os.waitpid(child, 0)
    if len(answers) != len(paths):
        return []
    return [path for path, answer in zip(paths, answers) if answer == ord("1")]


def _opens(path: str) -> bool:
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as failure:
        return failure.errno not in (errno.EACCES, errno.EPERM)
    return True


def files_max() -> int | None:
    """How many files systemd may let a unit open."""
    numbers = [text_of("/proc/sys/fs/nr_open")]
    found = re.search(r"^Max open files\s+\S+\s+(\S+)", text_of("/proc/1/limits"), re.MULTILINE)
    numbers.append(found[1] if found else "")
    known = [int(number) for number in numbers if number.isdecimal()]
    return min(known) if known else None


def tasks_max() -> int | None:
    """How many threads the host or its container may have."""
    places = ("kernel/pid_max", "kernel/threads-max")
    numbers = [text_of(f"/proc/sys/{place}") for place in places]
    numbers += [text_of("/sys/fs/cgroup/pids.max"), text_of("/sys/fs/cgroup/pids/pids.max")]
    known = [int(number) for number in numbers if number.isdecimal()]
    return min(known) if known else None


def in_container() -> bool:
    return (
        Path("/run/systemd/container").exists() or Path("/run/.containerenv").exists() or Path("/.dockerenv").exists()
    )


def time_daemons() -> list[str]:
    """Programs that keep the clock right and run."""
    running = {text_of(f"/proc/{name}/comm") for name in os.listdir("/proc") if name.isdecimal()}
    return sorted(running & set(_preflight.TIME_DAEMONS))
