# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Put environments there by hand as releases, so that site.yml finds nothing to install: for a host without network.

    python3 -m bench.gpu.site.releases --lock roles/vllm/files/locks/vllm-0.32.0-cu130.txt --package vllm \
        --root /opt/vllm --add /tmp/site --add /opt/torch/.venv/lib/python3.12/site-packages
    python3 -m bench.gpu.site.releases --lock roles/service/files/supervisor/requirements.txt --package supervisor \
        --root /opt/supervisor --add /tmp/wheels/supervisor

A release made so has its own bin/python and looks for packages in the folders of --add, in this order. It is called as
the release that the lock makes with this --python, and says of itself that it is whole: on a host that serves users,
have uv make it instead. Needs the Python library packaging, as Ansible does.
"""

from __future__ import annotations

import argparse
import configparser
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.gpu import estimates

SCRIPT = """\
#!{python}
import sys

from {module} import {function}

if __name__ == "__main__":
    sys.exit({function}())
"""


def collection(*names: str) -> list[Any]:
    """Modules of this checkout's collection."""
    folder = tempfile.mkdtemp()
    return estimates.modules(Path(folder), *names)


def tag(python: str) -> tuple[str, str]:
    """("cpython-3.12", its program without any link)"""
    code = "import os, sys; print(sys.implementation.name, *sys.version_info[:2], os.path.realpath(sys.executable))"
    done = subprocess.run([python, "-I", "-c", code], check=True, capture_output=True, text=True)
    name, major, minor, program = done.stdout.split(maxsplit=3)
    return f"{name}-{major}.{minor}", program.strip()


def environment(path: Path, python: str, program: str, folders: list[Path]) -> None:
    """What `python -m venv` makes, with the packages of FOLDERS."""
    packages = path / "lib" / f"python{python.rpartition('-')[2]}" / "site-packages"
    for folder in (path / "bin", packages):
        folder.mkdir(parents=True, exist_ok=True)
    for name in ("python", "python3"):
        link = path / "bin" / name
        link.unlink(missing_ok=True)
        link.symlink_to(program)
    (path / "pyvenv.cfg").write_text(f"home = {Path(program).parent}\ninclude-system-site-packages = false\n")
    lines = [f"import site; site.addsitedir({str(folder.resolve())!r})\n" for folder in folders]
    (packages / "by_hand.pth").write_text("".join(lines))


def scripts(path: Path, folders: list[Path]) -> list[str]:
    """The programs of those packages, the first one of each name."""
    made: list[str] = []
    for folder in folders:
        for file in sorted(folder.glob("*.dist-info/entry_points.txt")):
            parser = configparser.ConfigParser(delimiters=("=",), interpolation=None, strict=False)
            parser.optionxform = str  # type: ignore[assignment,method-assign]
            parser.read_string(file.read_text(encoding="utf-8"))
            found = dict(parser["console_scripts"]) if parser.has_section("console_scripts") else {}
            for name, target in found.items():
                if name in made or name.startswith("python"):
                    continue
                module, _colon, function = target.partition("[")[0].strip().partition(":")
                program = path / "bin" / name
                program.write_text(SCRIPT.format(python=path / "bin/python", module=module, function=function))
                program.chmod(0o755)
                made.append(name)
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lock", type=Path, required=True)
    parser.add_argument("--package", required=True)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--python", default="/usr/bin/python3")
    parser.add_argument("--add", type=Path, action="append", required=True, help="a folder of packages")
    given = parser.parse_args()
    (releases,) = collection("_releases")
    sys.path.insert(0, str(estimates.ROOT / "plugins/plugin_utils"))
    import _lock

    lock = _lock.parse(given.lock.read_text(encoding="utf-8"))
    version, (python, program) = lock.version_of(given.package), tag(given.python)
    name = releases.release_id(version, lock.digest, python)
    path = given.root / "releases" / name
    os.umask(0o022)
    environment(path, python, program, given.add)
    made = scripts(path, given.add)
    code = "import importlib.metadata as m, sys; print(m.version(sys.argv[1]))"
    done = subprocess.run(
        [str(path / "bin/python"), "-I", "-c", code, given.package], check=False, capture_output=True, text=True
    )  # fmt: skip
    if done.stdout.strip() != version:
        print(f"{path}: {given.package} {version} is wanted, and it has: {done.stdout or done.stderr}", file=sys.stderr)
        return 1
    marker = {"package": given.package, "version": version, "python": python, "lock_digest": lock.digest, "bytes": 0}
    (path / ".complete.json").write_text(json.dumps(marker, indent=2) + "\n")
    current = given.root / "current"
    current.unlink(missing_ok=True)
    current.symlink_to(f"releases/{name}")
    print(f"{current} -> releases/{name}: {', '.join(made[:8])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
