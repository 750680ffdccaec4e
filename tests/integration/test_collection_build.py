"""What `ansible-galaxy collection build` makes works when it is installed, far from the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.prefix, "bin")
GALAXY = yaml.safe_load((ROOT / "galaxy.yml").read_text())
# What exists only to rehearse or to work on the collection.
CHECKOUT_ONLY = (".ci", ".collections", ".venv", "bench", "inventories/lab", "lab", "molecule", "scripts", "tests")


def run(command: list[str], cwd: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(command, cwd=cwd, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Nothing of the checkout: no ansible.cfg, no collections path, a home of its own."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("ANSIBLE_", "PYTHON"))}
    return {**kept, "HOME": str(tmp_path_factory.mktemp("home")), "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Path:
    folder = tmp_path_factory.mktemp("build")
    run(
        [str(BIN / "ansible-galaxy"), "collection", "build", str(ROOT), "--output-path", str(folder)],
        folder,
        environment,
    )
    return folder / f"steadfast-vllm-{GALAXY['version']}.tar.gz"


@pytest.fixture(scope="module")
def installed(artifact: Path, tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Path:
    """A folder with the installed collection; amazon.aws comes with the ansible package, so nothing is fetched."""
    folder = tmp_path_factory.mktemp("installed with space")
    command = [str(BIN / "ansible-galaxy"), "collection", "install", str(artifact), "--no-deps", "--offline", "-p", "."]
    run(command, folder, environment)
    return folder


def test_the_artifact_holds_what_is_used_and_nothing_of_the_checkout(artifact: Path) -> None:
    with tarfile.open(artifact) as archive:
        names = archive.getnames()
    needed = {"README.md", "LICENSE", "meta/runtime.yml", "playbooks/site.yml", "roles/service/tasks/main.yml"}
    assert needed <= set(names)
    strays = [name for name in names if any(name == top or name.startswith(f"{top}/") for top in CHECKOUT_ONLY)]
    assert strays == []
    assert [name for name in names if name.endswith(".pyc") or "__pycache__" in name] == []


def test_the_site_playbook_runs_by_its_full_name(installed: Path, environment: dict[str, str]) -> None:
    hosts = installed / "hosts.yml"
    hosts.write_text("all: {children: {vllm: {hosts: {gpu1: {}}}, load_balancer: {hosts: {lb1: {}}}}}\n")
    told = {**environment, "ANSIBLE_COLLECTIONS_PATH": str(installed)}
    command = [str(BIN / "ansible-playbook"), "-i", str(hosts), "steadfast.vllm.site"]
    said = run([*command, "--syntax-check"], installed, told)
    assert f"{installed}/ansible_collections/steadfast/vllm/playbooks/site.yml" in said
    assert "Install vLLM and run it" in run([*command, "--list-tasks"], installed, told)


def test_modules_filters_and_roles_are_found(installed: Path, environment: dict[str, str]) -> None:
    told = {**environment, "ANSIBLE_COLLECTIONS_PATH": str(installed)}
    for kind, name in (("module", "alb_health_check"), ("filter", "instances"), ("role", "service")):
        said = run([str(BIN / "ansible-doc"), "-t", kind, f"steadfast.vllm.{name}"], installed, told)
        assert str(installed) in said


def test_dependencies_are_those_that_the_plugins_import() -> None:
    imported = set()
    for file in (ROOT / "plugins").rglob("*.py"):
        for line in file.read_text().splitlines():
            if line.lstrip().startswith(("from ansible_collections.", "import ansible_collections.")):
                imported.add(".".join(line.split()[1].split(".")[1:3]))
    assert imported - {"steadfast.vllm"} == set(GALAXY["dependencies"])
