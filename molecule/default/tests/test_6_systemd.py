# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The unit as installed: its exposure, its bounds and its limits; a stop that meets a frozen server.

Where trying would hurt vLLM, a probe runs in its place, in units rendered from the same template by the same role's
defaults, on both suites: systemd 252 (gpu1) and 257 (lb1).
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.steadfast.vllm.plugins.module_utils import _systemd_hardening, _systemd_versions

from lab import client, pictures
from lab.play import ROOT, play

SERVES = "gpu1"
BOTH = ["gpu1", "lb1"]
EXPOSURE = 1.5
UNIT = "/etc/systemd/system/qwen3vl.service"
HOME = "/var/lib/steadfast-probe"
LIMITS = {
    "memory": "96M",
    "cpu": 0.25,
    "tasks": 64,
    "files": 1024,
    "memlock": "1M",
    "io_weight": 50,
    "oom_score_adjust": 300,
}
# Everything that belongs to vLLM makes place for the probe.
PROBE = {
    "Type": "oneshot",
    "Restart": "no",
    "TimeoutStartSec": 60,
    "EnvironmentFile": "",
    "ExecCondition": "",
    "ExecStartPre": "",
    "ExecStart": ["", f"/usr/bin/python3 /run/probe_bounds.py %i {HOME}/%p-%i.json"],
    "ExecStartPost": "",
    "ExecStop": "",
    "ExecStopPost": "",
}
ALL_OFF = dict.fromkeys(_systemd_hardening.SWITCHES, False)


def shell(host: str, script: str, check: bool = True, timeout: float = 120) -> str:
    return client.on(host, "sh", "-c", script, check=check, timeout=timeout)


def show(host: str, unit: str, *properties: str) -> dict[str, str]:
    text = client.on(host, "systemctl", "show", f"--property={','.join(properties)}", unit)
    return dict(line.split("=", 1) for line in text.splitlines())


def exposure(text: str) -> float:
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", text)
    assert found, text
    return float(found[1])


def render(folder: Path, units: dict[str, dict[str, Any]]) -> None:
    """Units of the role's template on both hosts, each with the facts of its own systemd."""
    tasks: list[dict[str, Any]] = [{"ansible.builtin.setup": {"gather_subset": ["!all", "!min", "systemd"]}}]
    for name, variables in units.items():
        template = {"src": str(ROOT / "roles/service/templates/systemd.service.j2"), "mode": "0644"}
        template["dest"] = f"/run/systemd/system/{name}.service"
        tasks.append({"ansible.builtin.template": template, "vars": variables})
    defaults = yaml.safe_load((ROOT / "roles/service/defaults/main.yml").read_text())
    instance = "{{ [probe] | steadfast.vllm.instances | first }}"
    common = {**defaults, "instance": instance, "service_user": "daemon", "service_group": "daemon"}
    a_play = {"hosts": ",".join(BOTH), "gather_facts": False, "vars": common, "tasks": tasks}
    book = folder / "probe.yml"
    book.write_text(yaml.safe_dump([a_play]))
    done = play(playbook=str(book))
    assert done.code == 0, done.messages


@pytest.fixture(scope="module")
def probes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """steadfast-probe@MODE as the role would write it, and steadfast-open@MODE with every switch off."""
    probe = {"name": "probe", "model": "/srv/none"}
    shared = {"service_unit_directives": {"Service": PROBE}, "service_devices": ["/dev/steadfast-allowed"]}
    units = {
        "steadfast-probe@": {**shared, "probe": probe, "service_home": HOME},
        "steadfast-limits@": {**shared, "probe": {**probe, "limits": LIMITS}, "service_home": HOME},
        "steadfast-open@": {**shared, "probe": probe, "service_home": HOME, "service_hardening": ALL_OFF},
    }
    program = Path(__file__).with_name("probe_bounds.py").read_text()
    for host in BOTH:
        shell(host, f"cat > /run/probe_bounds.py <<'PROBE'\n{program}\nPROBE")
        shell(host, "mkdir -p /home/steadfast-probe && touch /tmp/steadfast-probe-marker")
        shell(host, f"install -d -o daemon {HOME}")
        # Nodes that anybody may open: only the unit's list of devices decides. fuse and tun do nothing when opened.
        shell(host, "mknod -m 666 /dev/steadfast-allowed c 10 229; mknod -m 666 /dev/steadfast-refused c 10 200")
        for address, family in (
            ("169.254.169.254/32", "-4"),
            ("169.254.169.250/32", "-4"),
            ("fd00:ec2::254/128", "-6"),
        ):
            shell(host, f"ip {family} address add {address} dev lo", check=False)
        listen = (
            "import socket, time; s = [socket.create_server((a, 8099), family=f, backlog=64) for a, f in "
            "(('169.254.169.254', 2), ('169.254.169.250', 2), ('fd00:ec2::254', 10))]; time.sleep(900)"
        )
        shell(host, f'systemd-run --quiet --collect --unit=steadfast-metadata python3 -c "{listen}"')
    try:
        render(tmp_path_factory.mktemp("probe"), units)
        for host in BOTH:
            shell(host, "systemctl daemon-reload")
        yield
    finally:
        for host in BOTH:
            shell(
                host,
                "systemctl stop steadfast-metadata; ip addr del 169.254.169.254/32 dev lo;"
                "ip addr del 169.254.169.250/32 dev lo; ip -6 addr del fd00:ec2::254/128 dev lo;"
                "systemctl reset-failed 'steadfast-*'; rm -rf /run/systemd/system/steadfast-* /run/probe_bounds.py"
                f" /dev/steadfast-* /home/steadfast-probe /tmp/steadfast-probe-marker {HOME} /var/lib/private{HOME};"
                "systemctl daemon-reload",
                check=False,
            )


def probed(host: str, kind: str, mode: str) -> dict[str, Any]:
    shell(host, f"rm -f {HOME}/{kind}-{mode}.json; systemctl start {kind}@{mode}", check=False)
    text = shell(host, f"cat {HOME}/{kind}-{mode}.json || journalctl -u {kind}@{mode} -n 20 --no-pager")
    try:
        parsed: dict[str, Any] = json.loads(text)
    except ValueError:
        raise AssertionError(text) from None
    return parsed


def test_exposure_while_it_answers_pictures(lab: client.Lab, measured: Callable[[str], None]) -> None:
    def right(picture: pictures.Picture) -> bool:
        return bool(client.ask(lab.direct(SERVES), lab.model, picture).text)

    pid = show(SERVES, "qwen3vl", "MainPID")
    assert all(right(picture) for picture in pictures.pictures(3, seed=6))
    score = exposure(client.on(SERVES, "systemd-analyze", "security", "--no-pager", "qwen3vl.service"))
    assert all(right(picture) for picture in pictures.pictures(3, seed=7))
    assert show(SERVES, "qwen3vl", "MainPID") == pid
    measured(f"systemd-analyze security of the unit as installed, serving pictures, systemd 252: {score}")
    assert score <= EXPOSURE


@pytest.mark.parametrize("host", BOTH)
def test_exposure_of_the_unit_on_either_systemd(host: str, probes: None, measured: Callable[[str], None]) -> None:
    """As the role renders it for this host's systemd; the probe's program instead of vLLM's changes no score."""
    path = "/run/systemd/system/steadfast-probe@.service"
    score = exposure(client.on(host, "systemd-analyze", "security", "--offline=yes", "--no-pager", path))
    version = client.on(host, "systemctl", "--version").split()[1]
    measured(f"systemd-analyze security --offline of the unit for systemd {version}: {score}")
    assert score <= EXPOSURE
    bare = path.replace("probe", "open")
    assert exposure(client.on(host, "systemd-analyze", "security", "--offline=yes", "--no-pager", bare)) > 6


def test_systemd_has_nothing_to_say_about_the_unit() -> None:
    assert shell(SERVES, f"systemd-analyze verify {UNIT} 2>&1") == ""
    said = shell(
        SERVES, "journalctl -b --no-pager _PID=1 | grep -iE 'qwen3vl.*(unknown|ignor|not support|fail.*pars)'", False
    )
    assert said == ""
    denied = show(SERVES, "qwen3vl", "IPAddressDeny")["IPAddressDeny"].split()
    assert sorted(denied) == ["169.254.169.254/32", "fd00:ec2::254/128"]


@pytest.mark.parametrize("host", BOTH)
def test_the_table_of_versions_says_what_this_systemd_knows(host: str) -> None:
    version = int(client.on(host, "systemctl", "--version").split()[1])
    dump = client.on(host, "/lib/systemd/systemd", "--dump-configuration-items")
    known: dict[str, set[str]] = {}
    names: set[str] = set()
    for line in dump.splitlines():
        if line.startswith("["):
            names = known.setdefault(line.strip("[]"), set())
        elif "=" in line:
            names.add(line.split("=")[0])
    service = known["Unit"] | known["Service"] | known["Install"]
    table = _systemd_versions.FIRST_VERSION
    assert {name for name, first in table.items() if (name in service) != (first <= version)} == set()
    used = {line.split("=")[0] for line in client.on(SERVES, "cat", UNIT).splitlines() if re.match(r"[A-Z]\w+=", line)}
    assert used <= service


NEEDED = {
    f"write {HOME}": "ok",
    "write /tmp": "ok",
    "write /dev/shm": "ok",
    "/dev/null": "ok",
    "allowed device": "ok",
    "address beside it": "ok",
    "machine code": "ok",
    "affinity": "ok",
    "lock memory": "ok",
    "netlink": "ok",
    "no new privileges": "1",
    "caches": ["TORCHINDUCTOR_CACHE_DIR"],
}
# what is tried: with the unit's bounds, without any
FORBIDDEN = {
    "write /etc": ("EROFS", "EACCES"),
    "write /usr": ("EROFS", "EACCES"),
    "write /srv": ("EROFS", "EACCES"),
    "write /opt": ("EROFS", "EACCES"),
    "write /var/cache": ("EROFS", "EACCES"),
    "host's /tmp": ("ENOENT", "ok"),
    "/home": ("EACCES", "ok"),
    "other device": ("EPERM", "ok"),
    "metadata": ("no answer", "ok"),
    "metadata6": ("no answer", "ok"),
    "ptrace": ("EPERM", "ok"),
    "raw socket family": ("EAFNOSUPPORT", "ok"),
    "namespace": ("EPERM", "ok"),
    "process 1": ("ENOENT", "ok"),
    "32-bit personality": ("EPERM", "ok"),
    "chown": ("EPERM", "ok"),
    "own user namespace": (True, False),
    "umask": ("0077", "0022"),
}


@pytest.mark.parametrize("host", BOTH)
def test_bounds(host: str, probes: None) -> None:
    closed, opened = (probed(host, kind, "bounds") for kind in ("steadfast-probe", "steadfast-open"))
    capabilities = closed.pop("capabilities"), opened.pop("capabilities")
    assert capabilities[0] == "none" != capabilities[1]
    assert closed == {**NEEDED, **{what: pair[0] for what, pair in FORBIDDEN.items()}}
    # the same probe without bounds: it was the unit that said no
    assert opened == {**NEEDED, **{what: pair[1] for what, pair in FORBIDDEN.items()}}


@pytest.mark.parametrize("host", BOTH)
def test_limits_are_enforced(host: str, probes: None, measured: Callable[[str], None]) -> None:
    found = probed(host, "steadfast-limits", "limits")
    assert (found["files"] <= 1024, found["why"], found["rlimits"]) == (True, "EMFILE", [1024, 2**20])
    assert (found["locked 512K"], found["locked 4M"]) == ("ok", "ENOMEM")
    assert found["oom_score_adj"] == 300
    assert found["cpu"] < 0.4, "CPUQuota=25%"
    tasks = probed(host, "steadfast-limits", "tasks")
    assert tasks["why"] == "EAGAIN"
    assert 50 <= tasks["made"] < 64
    memory = probed(host, "steadfast-limits", "memory")
    assert 32 <= memory["megabytes"] <= 96
    ended = show(host, "steadfast-limits@memory", "Result", "ExecMainStatus")
    assert ended["ExecMainStatus"] == "9", ended
    measured(
        f"limits on {host}: CPU {found['cpu']:.2f} of 0.25, {tasks['made'] + 1} of 64 tasks, {found['files'] + 3} of"
        f" 1024 files, killed ({ended['Result']}) at {memory['megabytes']} of 96 MiB"
    )


def in_group(host: str, *names: str) -> str:
    """The first of these files in the control group of the instance, be it version 1 or 2."""
    group = "system.slice/qwen3vl.service"
    places = " ".join(f"/sys/fs/cgroup/{group}/{name} /sys/fs/cgroup/*/{group}/{name}" for name in names)
    return shell(host, f"for file in {places}; do test ! -e $file || {{ cat $file; break; }}; done").strip()


def test_the_limits_of_the_instance_hold_for_the_server_that_runs() -> None:
    described = yaml.safe_load((ROOT / "inventories/lab/group_vars/vllm.yml").read_text())
    limits = described["lab_instance_defaults"]["systemd"]["limits"]
    assert in_group(SERVES, "memory.max", "memory.limit_in_bytes") == str(int(limits["memory"].rstrip("G")) * 2**30)
    assert in_group(SERVES, "pids.max") == str(limits["tasks"])
    share = in_group(SERVES, "cpu.max", "cpu.cfs_quota_us").split()
    period = share[1] if len(share) == 2 else in_group(SERVES, "cpu.cfs_period_us")
    assert int(share[0]) / int(period) == limits["cpu"]
    assert show(SERVES, "qwen3vl", "IOWeight")["IOWeight"] == str(limits["io_weight"])
    # Where a scheduler heeds weights (BFQ), systemd scales ours to its range; 100 is what a unit without one has.
    weight = in_group(SERVES, "io.bfq.weight", "blkio.bfq.weight", "io.weight").split()
    assert not weight or int(weight[-1]) > 100
    pids = {int(pid) for pid in in_group(SERVES, "cgroup.procs").split()}
    serving = set(client.processes(SERVES))
    assert serving and serving <= pids
    for pid in serving:
        text = client.on(SERVES, "cat", f"/proc/{pid}/limits")
        assert re.search(rf"Max open files +{limits['files']} +{limits['files']} ", text), text
        assert re.search(rf"Max locked memory +{4 * 2**20} +{4 * 2**20} ", text), text
        assert client.on(SERVES, "cat", f"/proc/{pid}/oom_score_adj").strip() == str(limits["oom_score_adjust"])


def test_a_stop_that_meets_a_frozen_server_ends_it_in_time(measured: Callable[[str], None]) -> None:
    """The last of all: nothing after it needs the server."""
    bound = show(SERVES, "qwen3vl", "TimeoutStopUSec")["TimeoutStopUSec"]
    assert bound == "1min 30s"
    pids = list(client.processes(SERVES))
    assert len(pids) >= 2
    client.on(SERVES, "kill", "-STOP", *map(str, pids))
    began = time.monotonic()
    client.on(SERVES, "systemctl", "stop", "qwen3vl", timeout=150)
    took = time.monotonic() - began
    measured(f"systemctl stop of an API and engine under SIGSTOP: {took:.0f} s of {bound}")
    assert took < 90 + 15
    assert not client.processes(SERVES)
    assert not in_group(SERVES, "cgroup.procs")
    assert show(SERVES, "qwen3vl", "ActiveState")["ActiveState"] in ("inactive", "failed")
