# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""compile_used.py CACHE: compile what a start of vLLM imports, in uv's cache, from where uv copies it into every host.

Runs in vLLM's environment, by the Python of the hosts. A release has 20000 sources, which take 100 seconds of a core to
compile, on every host again; a start reads a quarter of them. The bytecode is held to its source by a hash, since a
copy has another time. What is missing here costs each start a moment, and nothing else.
"""

from __future__ import annotations

import importlib
import os
import py_compile
import sys
import sysconfig
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

# What API server, engine, worker and the look at the model's class begin with.
IMPORTS = (
    "vllm.entrypoints.cli.main",
    "vllm.entrypoints.cli.serve",
    "vllm.entrypoints.openai.api_server",
    "vllm.v1.engine.core",
    "vllm.v1.executor.multiproc_executor",
    "vllm.v1.worker.cpu_worker",
    "vllm.model_executor.models.registry",
    "vllm.model_executor.models.qwen3_vl",
    "transformers.models.qwen3_vl",
    "transformers.models.qwen3_vl.modeling_qwen3_vl",
    "transformers.models.qwen2_vl.image_processing_qwen2_vl_fast",
    "transformers.models.auto.modeling_auto",
    "torch._inductor.compile_fx",
)


def used(site: Path) -> list[Path]:
    """The sources that these import, relative to site-packages."""
    for name in IMPORTS:
        try:
            importlib.import_module(name)
        except ImportError as error:
            # another version has moved it: what is left uncompiled is slower, not wrong
            print(f"{name}: not imported: {error}")
    files = {Path(str(getattr(module, "__file__", None) or "")) for module in list(sys.modules.values())}
    return sorted(file.relative_to(site) for file in files if file.suffix == ".py" and site in file.parents)


def in_cache(cache: Path, site: Path, sources: list[Path]) -> list[Path]:
    """The same files in uv's unpacked wheels."""
    places: dict[str, list[Path]] = defaultdict(list)
    for archive in cache.glob("archive-v*/*"):
        for entry in archive.iterdir():
            places[entry.name].append(archive)
    found = []
    for source in sources:
        content = (site / source).read_bytes()
        copies = (archive / source for archive in places[source.parts[0]])
        found += [copy for copy in copies if copy.is_file() and copy.read_bytes() == content]
    return found


def compile_one(source: Path) -> bool:
    """Whether it was compiled: a file for a newer Python is left as it is."""
    try:
        py_compile.compile(
            str(source), doraise=True, quiet=1, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH
        )
    except py_compile.PyCompileError:
        return False
    return True


def main() -> None:
    site = Path(sysconfig.get_paths()["purelib"])
    sources = used(site)
    found = in_cache(Path(sys.argv[1]), site, sources)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        compiled = sum(pool.map(compile_one, found, chunksize=50))
    if compiled < len(sources) / 2:
        sys.exit(f"only {compiled} of {len(sources)} imported files were found in uv's cache {sys.argv[1]}")
    print(f"{compiled} files in the cache, for {len(sources)} that are imported")


if __name__ == "__main__":
    main()
