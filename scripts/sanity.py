"""Run ansible-test sanity on this checkout:   python scripts/sanity.py [ARGUMENT of ansible-test sanity...]

ansible-test wants a folder ansible_collections/steadfast/vllm and does not follow the symlink in .collections, so it
gets a copy of what the collection ships (files that git tracks or would track, less galaxy.yml's build_ignore), with
the collections that the plugins import linked beside it. Its own virtual environments live in a private HOME, and are
made without the script that it would download. What stays in a checkout (lab, tests) is for ruff and mypy.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections import deque
from fnmatch import fnmatch
from pathlib import Path

import ansible_collections
import ansible_test
import yaml

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "steadfast-vllm" / "sanity"
NEEDED_COLLECTIONS = ("amazon.aws",)
# The lines that are about the collection; in ansible-test's last list each failed test stands on a line of its own.
TOLD = re.compile(
    r"(Running sanity test|ERROR:|FATAL:|WARNING: (?!Location )|See documentation|[a-z0-9-]+( --python [0-9.]+)?$)"
)
PYTHONS = ("3.9", "3.10", "3.11", "3.12", "3.13", "3.14")
# ansible-test downloads get-pip.py into its cache unless it is there. Python brings a pip of its own.
GET_PIP = """import ensurepip

ensurepip.bootstrap(default_pip=True)
"""


def shipped_files() -> list[Path]:
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    ignored = yaml.safe_load((ROOT / "galaxy.yml").read_text())["build_ignore"]

    def ships(name: Path) -> bool:
        places = [str(place) for place in (name, *name.parents)]
        return not any(fnmatch(place, pattern) for place in places for pattern in ignored)

    names = [Path(name) for name in listing.split("\0") if name]
    return [name for name in names if ships(name) and (ROOT / name).is_file()]


def copy_collection(collections: Path) -> Path:
    """A fresh copy each time: a file that was removed must not be tested."""
    target = collections / "steadfast" / "vllm"
    shutil.rmtree(target, ignore_errors=True)
    for name in shipped_files():
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, copy)
    return target


def link_needed(collections: Path) -> None:
    for fqcn in NEEDED_COLLECTIONS:
        namespace, name = fqcn.split(".")
        found = [
            Path(top, namespace, name) for top in ansible_collections.__path__ if Path(top, namespace, name).is_dir()
        ]
        if not found:
            sys.exit(f"{fqcn} is not installed beside {sys.executable}: make venv")
        link = collections / namespace / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(found[0])


def prepare_home(home: Path) -> None:
    source = Path(next(iter(ansible_test.__path__)), "_internal", "python_requirements.py").read_text()
    for version in set(re.findall(r"""pip=['"]([\d.]+)['"]""", source)):
        seed = home / ".ansible" / "test" / "cache" / f"get_pip_{version.replace('.', '_')}.py"
        seed.parent.mkdir(parents=True, exist_ok=True)
        seed.write_text(GET_PIP)
    # What this user has told pip (an index, certificates) holds in the private HOME too.
    for name in (".config/pip", ".pip"):
        told, link = Path.home() / name, home / name
        if told.is_dir() and not link.is_symlink():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(told)


def works(python: Path) -> bool:
    """Run it: a shim of pyenv stands on PATH for versions that it will not start."""
    return (
        subprocess.run([python, "-c", "import ensurepip, ssl, venv"], check=False, capture_output=True).returncode == 0
    )


def search_path() -> tuple[list[str], list[str]]:
    """The folders to search for programs, without pyenv's shims, and the Python versions that are found there."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    usual = [Path(entry) for entry in os.environ["PATH"].split(os.pathsep) if entry]
    usual = [entry for entry in usual if pyenv not in entry.parents]
    own = [Path(sys.prefix, "bin")]
    versions: list[str] = []
    extra: list[Path] = []
    for version in PYTHONS:
        candidates = own + usual + sorted(pyenv.glob(f"versions/{version}.*/bin"))
        at = next((folder for folder in candidates if works_at(folder / f"python{version}")), None)
        if at:
            versions.append(version)
            extra.append(at)
    # In front of the rest, so that the interpreter that was tried is the one that is used.
    return list(dict.fromkeys(str(entry) for entry in own + extra + usual)), versions


def works_at(python: Path) -> bool:
    return python.exists() and works(python)


def main(arguments: list[str]) -> int:
    # One folder a checkout, so that two of them do not overwrite each other's copy.
    place = CACHE / hashlib.sha256(str(ROOT).encode()).hexdigest()[:12]
    home = CACHE / "home"
    collections = place / "ansible_collections"
    target = copy_collection(collections)
    link_needed(collections)
    prepare_home(home)
    path, versions = search_path()
    print(f"ansible-test sanity with Python {', '.join(versions)}", flush=True)
    kept = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
    environment = {**kept, "HOME": str(home), "PATH": os.pathsep.join(path)}
    command = ["ansible-test", "sanity", "--color", "no", "--truncate", "0", *arguments]
    # Of what it prints, pip's part is kept for the case that pip is what fails.
    said: deque[str] = deque(maxlen=60)
    with subprocess.Popen(
        command,
        cwd=target,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as run:
        for line in run.stdout or ():
            said.append(line)
            if TOLD.match(line):
                print(line, end="", flush=True)
    if run.returncode and not any(line.startswith("FATAL: The ") for line in said):
        print("".join(said), end="")
    return run.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
