# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a first start compiles: the checks on tables, and the eyes on folders made for them."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import typing as t
from pathlib import Path

import pytest
from ansible_collections.steadfast.vllm.plugins.module_utils import _start_checks, _start_host
from ansible_collections.steadfast.vllm.plugins.module_utils._findings import Finding

MIB = 2**20
CARD = {"index": 0, "uuid": "GPU-0f", "name": "NVIDIA H100 80GB HBM3", "capability": (9, 0), "memory": 81079 * MIB,
        "free": None, "mig": False}  # fmt: skip
OLD = {**CARD, "capability": (7, 5)}
ALL = {"c": True, "cxx": True, "headers": True}
NONE = {"c": False, "cxx": False, "headers": False}
WARM, COLD = {"compiled": True, "sampler": True}, {"compiled": False, "sampler": False}
FITS = {"home": "/usr/local/cuda", "nvcc": "13.0", "headers": "13.0"}
BROUGHT = ["gcc", "g++", "libc6-dev", "python3-dev"]


def instance(**keys: t.Any) -> dict[str, t.Any]:
    compiling = {**_start_checks.USUAL, **keys.pop("compiling", {})}
    plain = {"name": "a", "model": "Qwen/Qwen3-VL-8B-Instruct", "model_path": "/m", "gpus": None, "arguments": {}}
    return {**plain, "start_timeout": 600, "compiling": compiling, **keys}


def wanted(one: dict[str, t.Any] | None = None, **keys: t.Any) -> dict[str, t.Any]:
    return {"instances": [one or instance()], "cuda": "13.0", "packages": BROUGHT, **keys}


def seen(*, card: dict[str, t.Any] | None = None, identity: str = "debian", **keys: t.Any) -> dict[str, t.Any]:
    """A host of 16 cores on which all is there, and nothing was compiled before."""
    start = {"cores": 16, "compilers": ALL, "flashinfer": True, "toolkits": {"a": FITS}, "caches": {"a": COLD},
             "tried": "", **keys}  # fmt: skip
    smi = {"problem": "", "driver": "580.95.05", "cards": [card or CARD], "processes": []}
    return {"start": start, "smi": smi, "gpus": [], "models": {}, "os_release": {"ID": identity}}


def judged(want: dict[str, t.Any], saw: dict[str, t.Any]) -> list[Finding]:
    checks = (_start_checks.compilers, _start_checks.toolkit, _start_checks.start_time)
    return [finding for check in checks for finding in check(want, saw)]


def test_a_good_host() -> None:
    found = judged(wanted(), seen())
    assert [finding["check"] for finding in found] == ["compilers", "toolkit[a]", "start[a]"]
    assert all(finding["ok"] and finding["evidence"] for finding in found)


SLOW = instance(start_timeout=120)
PROBLEMS: list[tuple[dict[str, t.Any], dict[str, t.Any], str, str, str, str]] = [
    # wanted, seen: check, severity, evidence, fix
    (wanted(packages=[]), seen(compilers=NONE), "compilers", "error", "a C compiler (gcc or clang), a C++",
     "gcc, g++, python3-dev"),
    (wanted(packages=["gcc", "curl"]), seen(compilers=NONE, identity="rocky"), "compilers", "error", "a C++ compiler",
     "gcc-c++, python3-devel"),
    (wanted(packages=[]), seen(compilers={**ALL, "headers": False}), "compilers", "error", "Python.h", "python3-dev"),
    (wanted(), seen(toolkits={"a": {"home": "", "nvcc": None, "headers": ""}}), "toolkit[a]", "error",
     "no nvcc in the release, C", 'VLLM_USE_FLASHINFER_SAMPLER: "0"'),
    (wanted(), seen(toolkits={"a": {"home": "", "nvcc": None, "headers": ""}}, tried="no C compiler"), "toolkit[a]",
     "error", "that of the release cannot be used: no C compiler", 'VLLM_USE_FLASHINFER_SAMPLER: "0"'),
    # Before this run has made its own release, whose lock may be the fix.
    (wanted(stage="host"), seen(toolkits={"a": {"home": "", "nvcc": None, "headers": ""}}, tried="unsupported GNU"),
     "toolkit[a]", "warning", "that of the release cannot be used: unsupported GNU", "VLLM_USE_FLASHINFER_SAMPLER"),
    (wanted(instance(compiling={"cuda_home": "/c"}), stage="host"),
     seen(toolkits={"a": {"home": "/c", "nvcc": None, "headers": ""}}), "toolkit[a]", "error", "no nvcc in /c",
     "VLLM_USE_FLASHINFER_SAMPLER"),
    # Of a release from before one was made; the one that this run installs may have it.
    (wanted(), seen(toolkits={"a": {"home": "", "nvcc": None, "headers": ""}}, tried=None), "toolkit[a]", "warning",
     "no nvcc in the release, C", 'VLLM_USE_FLASHINFER_SAMPLER: "0"'),
    # The sampler may be where nobody looks: below a link.
    (wanted(), seen(toolkits={"a": {"home": "", "nvcc": None, "headers": ""}}, caches={"a": {**COLD, "sampler": None}}),
     "toolkit[a]", "warning", "no nvcc in the release, C", 'VLLM_USE_FLASHINFER_SAMPLER: "0"'),
    (wanted(), seen(toolkits={"a": {"home": "/c", "nvcc": "13.5", "headers": "13.0"}}), "toolkit[a]", "error",
     "nvcc 13.5 and headers 13.0 in /c", "nvidia-cuda-nvcc"),
    (wanted(SLOW), seen(), "start[a]", "error", "start_timeout 120 s", "set start_timeout of instance a to"),
    (wanted(), seen(cores=4), "start[a]", "warning", "4 cores, 16.3 GiB of weights, no compiled kernels yet",
     "set start_timeout of instance a to 780"),
    (wanted(instance(start_timeout=60)), seen(caches={"a": WARM}), "start[a]", "error", "compiled kernels there", "to"),
    (wanted(SLOW), seen(caches={"a": {"compiled": None, "sampler": None}}), "start[a]", "warning", "not known", "to"),
    # Options may switch off what would be compiled.
    (wanted(instance(start_timeout=120, compiling={"flashinfer_sampler": False},
                     arguments={"optimization-level": True})),
     seen(), "start[a]", "warning", "compiled kernels not known", "to"),
    # Whether the release that will come compiles its sampler is not known yet: 200 s might do without.
    (wanted(instance(start_timeout=200)), seen(flashinfer=None), "start[a]", "warning", "no compiled kernels", "to"),
]  # fmt: skip


@pytest.mark.parametrize(("want", "saw", "check", "severity", "evidence", "fix"), PROBLEMS)
def test_each_problem_has_evidence_and_a_fix(
    want: dict[str, t.Any], saw: dict[str, t.Any], check: str, severity: str, evidence: str, fix: str
) -> None:
    (finding,) = [finding for finding in judged(want, saw) if not finding["ok"]]
    assert (finding["check"], finding["severity"]) == (check, severity)
    assert finding["cause"]
    assert evidence in finding["evidence"]
    assert fix in finding["fix"]


NO_NVCC = {"a": {"home": "", "nvcc": None, "headers": ""}}
NO_PROBLEMS = [
    (wanted(), {**seen(), "start": None}),  # without CUDA, or in containers
    (wanted(), seen(compilers=NONE)),  # vllm_packages brings all of them
    (wanted(packages=["build-essential", "python3.12-dev"]), seen(compilers=NONE)),
    (wanted(packages=["gcc-c++", "python3-devel"]), seen(compilers=NONE, identity="rocky")),  # it requires gcc
    (wanted(packages=["g++=4:12.2.0-3", "python3-dev:amd64"]), seen(compilers=NONE)),
    (wanted(packages=[]), seen(compilers={**ALL, "headers": None})),
    (wanted(instance(compiling={"own_compilers": True}), packages=[]), seen(compilers=NONE)),
    (wanted(instance(arguments={"enforce-eager": True}), packages=[]), seen(compilers={**ALL, "cxx": False})),
    # Nothing will be compiled with nvcc: switched off, done before, not installed, not known yet, a card too old.
    (wanted(instance(compiling={"flashinfer_sampler": False})), seen(toolkits=NO_NVCC)),
    (wanted(), seen(toolkits=NO_NVCC, caches={"a": WARM})),
    (wanted(), seen(toolkits=NO_NVCC, flashinfer=False)),
    (wanted(), seen(toolkits=NO_NVCC, flashinfer=None)),
    (wanted(), seen(toolkits=NO_NVCC, card=OLD)),
    (wanted(), seen(toolkits=NO_NVCC, card={**CARD, "capability": None})),
    # Versions that are not known.
    (wanted(), seen(toolkits={"a": {"home": "/c", "nvcc": "", "headers": "13.0"}})),
    (wanted(), seen(toolkits={"a": {"home": "/c", "nvcc": "13.0", "headers": ""}})),
    (wanted(instance(start_timeout=None)), seen(cores=1)),
    (wanted(), seen(cores=2, caches={"a": WARM})),
]


@pytest.mark.parametrize(("want", "saw"), NO_PROBLEMS)
def test_what_is_no_problem(want: dict[str, t.Any], saw: dict[str, t.Any]) -> None:
    assert [finding for finding in judged(want, saw) if not finding["ok"]] == []


def test_the_number_that_a_fix_names_is_enough() -> None:
    for cores in (1, 2, 4, 8):
        (finding,) = [one for one in judged(wanted(SLOW), seen(cores=cores)) if not one["ok"]]
        number = int(finding["fix"].partition("instance a to ")[2].split()[0])
        assert all(one["ok"] for one in judged(wanted(instance(start_timeout=number)), seen(cores=cores)))


def test_nothing_secret_is_taken_from_an_environment() -> None:
    taken = _start_checks.environment(
        {"VLLM_USE_FLASHINFER_SAMPLER": 0, "CC": "S3CR3T", "VLLM_API_KEY": "S3CR3T", "CUDA_HOME": "/c",
         "VLLM_CACHE_ROOT": "/v", "FLASHINFER_WORKSPACE_BASE": "/f"}
    )  # fmt: skip
    assert taken == {"flashinfer_sampler": False, "cuda_home": "/c", "cache_root": "/v", "flashinfer_base": "/f",
                     "own_compilers": True}  # fmt: skip


def release(folder: Path, nvcc: str = "13.5.37", number: str = "13000") -> Path:
    """As the wheels of NVIDIA lie in an environment: its folder of the toolkit."""
    packages = folder / "lib" / "python3.12" / "site-packages"
    home = packages / "nvidia" / "cu13"
    for place in (home / "bin", home / "include", packages / f"nvidia_cuda_nvcc-{nvcc}.dist-info"):
        place.mkdir(parents=True)
    (home / "bin" / "nvcc").touch(mode=0o755)
    (home / "include" / "cuda_runtime_api.h").write_text(f"/* x */\n#define CUDART_VERSION  {number}\n")
    return home


def test_a_toolkit_in_wheels_tells_its_versions(tmp_path: Path) -> None:
    home = release(tmp_path)
    assert _start_host.toolkit(str(home)) == {"home": str(home), "nvcc": "13.5", "headers": "13.0"}
    # A folder of links to it, as CUDA_HOME may be.
    other = tmp_path / "home"
    (other / "bin").mkdir(parents=True)
    (other / "bin" / "nvcc").symlink_to(home / "bin" / "nvcc")
    (other / "include").symlink_to(home / "include")
    assert _start_host.toolkit(str(other)) == {"home": str(other), "nvcc": "13.5", "headers": "13.0"}


def test_a_toolkit_of_nvidia_s_packages_tells_its_versions(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "nvcc").touch()
    assert _start_host.toolkit(str(tmp_path)) == {"home": str(tmp_path), "nvcc": "", "headers": ""}
    (tmp_path / "version.json").write_text(
        '{"cuda": {"version": "13.0.2"}, "cuda_nvcc": {\n "name": "x", "version": "13.0.88"}}'
    )
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "cuda_runtime_api.h").write_text("#define CUDART_VERSION 12090\n")
    assert _start_host.toolkit(str(tmp_path)) == {"home": str(tmp_path), "nvcc": "13.0", "headers": "12.9"}
    os.unlink(tmp_path / "include" / "cuda_runtime_api.h")
    os.mkfifo(tmp_path / "include" / "cuda_runtime_api.h")  # who reads it whole waits for ever
    assert _start_host.toolkit(str(tmp_path))["headers"] == ""
    assert _start_host.toolkit(str(tmp_path / "none")) == {"home": str(tmp_path / "none"), "nvcc": None, "headers": ""}


def test_no_toolkit_is_found_without_looking_further(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(_start_host, "USUAL_TOOLKIT", str(tmp_path / "cuda"))
    assert _start_host.toolkit("") == {"home": "", "nvcc": None, "headers": ""}
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "nvcc").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert _start_host.toolkit("")["home"] == str(tmp_path)


def test_the_release_s_own_toolkit_comes_before_the_host_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = release(tmp_path / "r", "13.0.88", 13000)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(_start_host, "USUAL_TOOLKIT", str(tmp_path / "none"))
    assert _start_host.toolkit("", str(tmp_path / "r"))["nvcc"] is None
    (tmp_path / "r" / "cuda").symlink_to(home)
    own = {"home": str(tmp_path / "r" / "cuda"), "nvcc": "13.0", "headers": "13.0"}
    assert _start_host.toolkit("", str(tmp_path / "r")) == own
    assert _start_host.toolkit("/named", str(tmp_path / "r"))["home"] == "/named"


@pytest.mark.parametrize(
    ("marker", "told"),
    [
        (None, None), ("{}", None), ("{", None), ('{"toolkit": null}', None), ("[]", None),
        ('{"toolkit": {"version": "13.0", "problem": ""}}', ""),
        ('{"toolkit": {"version": "13.5", "problem": "refused"}}', "refused"),
    ],
)  # fmt: skip
def test_what_a_release_says_of_its_toolkit(tmp_path: Path, marker: str | None, told: str | None) -> None:
    if marker is not None:
        (tmp_path / ".complete.json").write_text(marker)
    assert _start_host.tried(tmp_path) == told


def test_what_flashinfer_compiles(tmp_path: Path) -> None:
    assert not _start_host.compiles(tmp_path)
    (tmp_path / "flashinfer").mkdir()
    assert _start_host.compiles(tmp_path)
    (tmp_path / "flashinfer_jit_cache").mkdir()
    assert not _start_host.compiles(tmp_path)


def test_kernels_that_are_there(tmp_path: Path) -> None:
    usual = _start_checks.USUAL
    assert _start_host.caches(usual, str(tmp_path)) == COLD
    (tmp_path / ".cache" / "vllm" / "torch_compile_cache" / "5d1a").mkdir(parents=True)
    sampling = tmp_path / ".cache" / "flashinfer" / "0.7.0.post1" / "90a" / "cached_ops" / "sampling"
    sampling.mkdir(parents=True)
    assert _start_host.caches(usual, str(tmp_path)) == {"compiled": True, "sampler": False}
    (sampling / "sampling.so").touch()
    assert _start_host.caches(usual, str(tmp_path)) == WARM
    # Places of the instance's own.
    elsewhere = {**usual, "cache_root": str(tmp_path / "v"), "flashinfer_base": str(tmp_path / "f")}
    assert _start_host.caches(elsewhere, str(tmp_path)) == COLD
    (tmp_path / "v" / "torch_compile_cache" / "5d1a").mkdir(parents=True)
    assert _start_host.caches(elsewhere, str(tmp_path)) == {"compiled": True, "sampler": False}


@pytest.mark.parametrize("root", ["~/.cache/vllm-0123456789ab", "~/", "~", "HOME/v/w", "HOME/./v/"])
def test_a_cache_of_the_instance_s_own_is_looked_for_where_its_environment_says(tmp_path: Path, root: str) -> None:
    """As an instance without pictures has it; what other instances compiled in the usual place is not its own."""
    home = tmp_path / "home"
    usual = home / ".cache" / "vllm" / "torch_compile_cache" / "5d1a"
    usual.mkdir(parents=True)
    own = _start_checks.environment({"VLLM_CACHE_ROOT": root.replace("HOME", str(home))})
    assert _start_host.caches(own, str(home))["compiled"] is False
    place = Path(root.replace("HOME", str(home)).replace("~", str(home)))
    (place / "torch_compile_cache" / "5d1a").mkdir(parents=True)
    assert _start_host.caches(own, str(home))["compiled"] is True
    # No link below the home is followed, whichever way it was named.
    (place / "torch_compile_cache").rename(tmp_path / "secret")
    (place / "torch_compile_cache").symlink_to(tmp_path / "secret")
    assert _start_host.caches(own, str(home))["compiled"] is None


@pytest.mark.parametrize("root", ["~other/vllm", "cache/vllm"])
def test_a_cache_that_depends_on_who_runs_and_where_is_not_known(
    tmp_path: Path, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / root / "torch_compile_cache" / "5d1a").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    own = _start_checks.environment({"VLLM_CACHE_ROOT": root, "FLASHINFER_WORKSPACE_BASE": "~/f"})
    assert _start_host.caches(own, str(tmp_path)) == {"compiled": None, "sampler": None}


def test_a_linked_folder_of_the_cache_below_the_home_is_not_followed(tmp_path: Path) -> None:
    home, secret = tmp_path / "home", tmp_path / "secret"
    home.mkdir()
    (secret / "torch_compile_cache" / "5d1a").mkdir(parents=True)
    (home / "own").symlink_to(secret)
    for root in ("~/own", str(home / "own")):
        own = _start_checks.environment({"VLLM_CACHE_ROOT": root})
        assert _start_host.caches(own, str(home))["compiled"] is None


def test_no_link_of_the_service_user_is_followed(tmp_path: Path) -> None:
    """Root must not be led about: what lies behind a link is not known, and that is held against nobody."""
    secret = tmp_path / "secret"
    (secret / "vllm" / "torch_compile_cache" / "5d1a").mkdir(parents=True)
    home = tmp_path / "home"
    home.mkdir()
    (home / ".cache").symlink_to(secret)
    assert _start_host.caches(_start_checks.USUAL, str(home)) == {"compiled": None, "sampler": None}
    (home / ".cache").unlink()
    (home / ".cache").write_text("")
    assert _start_host.caches(_start_checks.USUAL, str(home)) == COLD


def test_the_headers_of_the_python_that_will_run(tmp_path: Path) -> None:
    calls: list[list[str]] = []

    def run(argv: list[str]) -> tuple[int, str, str]:
        calls.append(argv)
        return 0, f"{tmp_path}/include\n", ""

    plan = {"release": str(tmp_path / "current"), "environment_python": "/usr/bin/python3"}
    # uv brings a Python of its own where the host's is too old, and its headers with it.
    assert _start_host.headers(plan, (3, 9, 2), run) is None
    assert _start_host.headers(plan, None, run) is None
    assert calls == []
    assert _start_host.headers(plan, (3, 12, 3), run) is False
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "Python.h").touch()
    assert _start_host.headers(plan, (3, 12, 3), run) is True
    (tmp_path / "current" / "bin").mkdir(parents=True)
    (tmp_path / "current" / "bin" / "python").touch()
    assert _start_host.headers(plan, None, run) is True
    assert [argv[0] for argv in calls] == ["/usr/bin/python3", "/usr/bin/python3", f"{tmp_path}/current/bin/python"]
    assert _start_host.headers(plan, None, lambda argv: (1, "", "broken")) is None


def test_this_machine(tmp_path: Path) -> None:
    """The whole look, with the Python that runs the tests as the release's."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    plan: dict[str, t.Any] = {"cuda": "13.0", "service_manager": "systemd", "release": str(tmp_path),
                              "home": str(tmp_path), "environment_python": None, "instances": [instance()]}  # fmt: skip

    def run(argv: list[str]) -> tuple[int, str, str]:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    found = _start_host.look(plan, None, run)
    assert found is not None
    assert 1 <= found["cores"] <= (os.cpu_count() or 1)
    assert found["compilers"]["headers"] is Path(sysconfig.get_path("include"), "Python.h").is_file()
    assert found["flashinfer"] is None
    assert found["caches"] == {"a": COLD}
    for other in ({"cuda": ""}, {"service_manager": "compose"}, {"release": None}):
        assert _start_host.look({**plan, **other}, None, run) is None


@pytest.mark.parametrize(
    ("text", "most"), [("200000 100000", 2), ("50000 100000", 1), ("max 100000", 10**6), ("", 10**6)]
)
def test_a_container_s_share_of_the_cores_counts(tmp_path: Path, text: str, most: int) -> None:
    (tmp_path / "cpu.max").write_text(f"{text}\n")
    assert _start_host.cores(tmp_path / "cpu.max") == min(most, len(os.sched_getaffinity(0)))
