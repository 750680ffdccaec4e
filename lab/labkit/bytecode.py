# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bytecode of what vLLM imports, made once in the cache of wheels instead of on every host."""

from __future__ import annotations

from pathlib import Path

from . import image, machine, model, wheels
from .hosts import Limits
from .work import Workshop, digest, file_digest, run

PROGRAM = wheels.SOURCES / "compile_used.py"
SCRIPT = f"""set -eu
{model.ENVIRONMENT}
exec /opt/train/bin/python /srv/lab/sources/wheels/{PROGRAM.name} {image.UV_CACHE}
"""


def marker(shop: Workshop) -> Path:
    """In the cache that it speaks of: whoever empties one empties both."""
    return wheels.uv_cache(shop) / "steadfast-bytecode"


def made_of(shop: Workshop) -> str:
    return digest(file_digest(wheels.lock_file(shop)), model.meaning(PROGRAM.read_text()))


def there(shop: Workshop) -> bool:
    found = marker(shop)
    return found.is_file() and wheels.lock_file(shop).is_file() and found.read_text() == made_of(shop)


def make(shop: Workshop, pip: machine.Pip, tag: str, limits: Limits) -> str:
    name = f"steadfast-lab-bytecode-{digest(str(shop.root))}"
    run(["podman", "rm", "--force", "--ignore", "--time=0", name], "removing one that was cut off")
    options = ["--env=OMP_NUM_THREADS=1", "--env=VLLM_NO_USAGE_STATS=1"]
    argv = [*model.container(shop, pip, limits, name), *options, tag, "sh", "-c", SCRIPT]
    said = run(argv, "compiling what vLLM imports").strip().splitlines()
    part = marker(shop).with_suffix(".part")
    part.write_text(made_of(shop))
    part.replace(marker(shop))
    return said[-1]
