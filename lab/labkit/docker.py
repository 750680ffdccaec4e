# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a lab host with Docker builds its image from: no registry, but the lab's own root filesystem and wheels."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from . import image, machine, wheels
from .hosts import Mounts
from .work import Workshop, digest, file_digest, run

TARGET = "/srv/lab/docker"
ARCHIVE, BASE, WHEELS, UV_CONFIG, MADE = "base.tar", "base", "wheels", "uv.toml", "made-of"


def folder(shop: Workshop) -> Path:
    return shop.lab / "docker"


def mounts(shop: Workshop) -> Mounts:
    return ((str(folder(shop)), TARGET, "ro"),)


def sources(shop: Workshop, pip: machine.Pip) -> list[Path]:
    """The wheels that no index has: the shim, and what pip is told to look for on this machine's disk."""
    tag = "cp" + wheels.PYTHON.replace(".", "")
    local = [wheel for place in machine.local_folders(pip) for wheel in sorted(place.glob(f"*{tag}*.whl"))]
    return [*sorted(wheels.wheelhouse(shop).glob("*.whl")), *local]


def uv_toml(pip: machine.Pip) -> str:
    """uv's settings in a build: as in a host, without the folders that only hosts have."""
    own = ("cache-dir", "find-links")
    remote = machine.Pip(pip.index_url, pip.extra_index_urls, ())
    text = image.uv_toml(remote, 0, wheels.wants_torch_backend(pip))
    return "".join(line + "\n" for line in text.splitlines() if not line.startswith(own))


def made_of(shop: Workshop, pip: machine.Pip, tag: str) -> str:
    """Changes with whatever the folder is made of; the machine's own wheels by name and size."""
    found = [(path.name, path.stat().st_size) for path in sources(shop, pip)[1:]]
    shim = [file_digest(path) for path in sorted(wheels.wheelhouse(shop).glob("*.whl"))]
    return digest(tag, found, shim, uv_toml(pip))


def there(shop: Workshop, pip: machine.Pip, tag: str) -> bool:
    made = folder(shop) / MADE
    return made.is_file() and made.read_text() == made_of(shop, pip, tag)


def make(shop: Workshop, pip: machine.Pip, tag: str) -> str:
    """In place, since hosts have it mounted; what says that it is whole comes last."""
    place = folder(shop)
    (place / WHEELS).mkdir(parents=True, exist_ok=True)
    (place / MADE).unlink(missing_ok=True)
    (place / ARCHIVE).unlink(missing_ok=True)
    run(["podman", "save", "--quiet", "--format=docker-archive", f"--output={place / ARCHIVE}", tag], "saving the base")
    found = run(["podman", "image", "inspect", "--format", "{{.Id}}", tag], "asking for the base's identifier").strip()
    (place / BASE).write_text(f"{tag}@sha256:{found.removeprefix('sha256:')}")
    (place / UV_CONFIG).write_text(uv_toml(pip))
    wanted = sources(shop, pip)
    for old in set((place / WHEELS).iterdir()) - {place / WHEELS / path.name for path in wanted}:
        old.unlink()
    for path in wanted:
        target = place / WHEELS / path.name
        target.unlink(missing_ok=True)
        try:
            os.link(path, target)
        except OSError:
            shutil.copyfile(path, target)
    (place / MADE).write_text(made_of(shop, pip, tag))
    return f"{(place / ARCHIVE).stat().st_size >> 20} MiB and {len(wanted)} wheels"
