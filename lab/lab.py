#!/usr/bin/env python3
# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""lab.py VERB: what lab/create.yml and lab/destroy.yml call; also of use by hand.

check    refuse a machine that cannot run the lab
prepare  make what is missing: host images, the lock of the CPU vLLM, its bytecode, the tiny model
up       network and hosts, booted
down     remove hosts, network and volumes (what `prepare` made stays)
show     what is there
Each prints one JSON object; `changed` in it says whether anything was done.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor

from labkit import bytecode, docker, hosts, image, machine, model, preflight, wheels
from labkit.work import LabError, Workshop, cache_root, digest, file_digest


class Bench:
    """The parts of one call: which machine, which cache, which lab."""

    def __init__(self) -> None:
        self.shop = Workshop(cache_root())
        self.lab = hosts.Lab.chosen()
        self.pip = machine.read_pip()
        self.limits = hosts.Limits(machine.open_files(), machine.processes())

    def recipes(self) -> dict[str, image.Recipe]:
        suites = sorted({"bookworm", *(host.suite for host in hosts.chosen())})  # the model is trained on bookworm
        backend = wheels.wants_torch_backend(self.pip)
        return {suite: image.recipe(suite, self.pip, backend) for suite in suites}

    def check(self) -> dict[str, object]:
        found = preflight.look(self.shop.root)
        able = found.root and "podman" not in found.missing and not found.cgroup_problem
        up = able and hosts.all_up(self.lab)
        first = not (wheels.lock_file(self.shop).exists() and model.report(self.shop))
        texts = preflight.problems(found, first=first, hosts_up=up)
        if texts:
            raise LabError("The lab cannot run here:\n- " + "\n- ".join(texts))
        return {"changed": False, "cgroup": found.cgroup, "lab": self.lab.name, "up": up}

    def prepare(self) -> dict[str, object]:
        recipes = self.recipes()
        inputs = wheels.lock_inputs(self.shop, self.pip)

        def build(suite: str) -> None:
            wanted = recipes[suite]
            self.shop.step(f"image {suite}", lambda: image.there(wanted), lambda: image.build(self.shop, wanted))

        def lock() -> None:
            self.shop.step(
                "lock of the CPU vLLM",
                lambda: wheels.locked(self.shop, inputs),
                lambda: wheels.lock(self.shop, self.pip, inputs),
            )

        with ThreadPoolExecutor(3) as pool:
            # the model waits for its own image and the lock only, while the other image is made
            others = [pool.submit(build, suite) for suite in recipes if suite != "bookworm"]
            first = [pool.submit(build, "bookworm"), pool.submit(lock)]
            for job in first:
                job.result()
            self.shop.step(
                "bytecode of vLLM",
                lambda: bytecode.there(self.shop),
                lambda: bytecode.make(self.shop, self.pip, recipes["bookworm"].tag, self.limits),
            )
            self.shop.step(
                "tiny model",
                lambda: model.there(self.shop),
                lambda: model.train(self.shop, self.pip, recipes["bookworm"].tag, self.limits),
            )
            for job in others:
                job.result()
        if any(host.docker for host in hosts.chosen()):
            tag = recipes["bookworm"].tag
            self.shop.step(
                "base and wheels for Docker",
                lambda: docker.there(self.shop, self.pip, tag),
                lambda: docker.make(self.shop, self.pip, tag),
            )
        return {"changed": bool(self.shop.steps), "steps": self.shop.steps, "model": model.report(self.shop)}

    def up(self) -> dict[str, object]:
        recipes = self.recipes()
        packages = model.package_mounts(self.shop, self.pip)
        tool = ((str(machine.uv()), "/srv/lab/bin/uv", "ro"),)
        models = ((str(model.folder(self.shop)), model.TARGET, "ro"),)
        aws = digest(
            *[file_digest(path) for path in [model.SOURCES / "aws" / name for name in ("moto.yml", "requirements.txt")]]
        )
        wanted = {
            host.name: hosts.run_argv(
                self.lab,
                host,
                recipes[host.suite].tag,
                self.limits,
                (*packages, *(models if host.serves else tool), *(docker.mounts(self.shop) if host.docker else ())),
                aws if host.aws else "",
            )
            for host in hosts.chosen()
        }
        done = hosts.bring_up(self.shop, self.lab, wanted)
        moto = all(hosts.answers(self.lab, host.last_octet, hosts.MOTO_PORT) for host in hosts.chosen() if host.aws)
        return {"changed": bool(done), "done": done, "moto": moto}

    def down(self) -> dict[str, object]:
        done = hosts.take_down(self.shop, self.lab)
        return {"changed": bool(done), "done": done}

    def show(self) -> dict[str, object]:
        return {
            "changed": False,
            "lab": self.lab.name,
            "hosts": hosts.standing(self.lab),
            "cache": str(self.shop.root),
            "log": str(self.shop.log),
            "lock": str(wheels.lock_file(self.shop)),
            "model": model.report(self.shop),
        }


VERBS = {
    "check": Bench.check,
    "prepare": Bench.prepare,
    "up": Bench.up,
    "down": Bench.down,
    "show": Bench.show,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=list(VERBS))
    verb = parser.parse_args().verb
    # what is made here is read by services in the hosts, whatever the caller's umask
    os.umask(0o022)
    try:
        answer = VERBS[verb](Bench())
    except LabError as problem:
        print(problem, file=sys.stderr)
        return 1
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
