# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a server was started, told from control groups and ancestors as hosts have them."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.steadfast.vllm.plugins.module_utils import _adopt_launch
from ansible_collections.steadfast.vllm.plugins.module_utils._adopt_launch import Process, classify
from hypothesis import given
from hypothesis import strategies as st

VLLM = "/v/bin/python /v/bin/vllm serve m"
SESSION = "/user.slice/user-1000.slice/session-3.scope"
DOCKER = "/system.slice/docker-" + "0" * 64 + ".scope"


def tree(*lines: str, group: str = SESSION, **server: t.Any) -> dict[int, Process]:
    """Processes, each the child of the one before; the last is the server. "name|command line"."""
    known = {1: Process(1, 0, 1, "systemd", ("/sbin/init",), ("/init.scope",), space="host")}
    for number, line in enumerate(lines, start=2):
        name, _bar, command = line.rpartition("|")
        words = command.split(" ")
        last = number == len(lines) + 1
        known[number] = Process(
            number, number - 1, number, name or words[0].rsplit("/", 1)[-1], tuple(words), (group,),
            **{"space": "host", **(server if last else {})},
        )  # fmt: skip
    return known


def launched(known: dict[int, Process]) -> _adopt_launch.Launch:
    return classify(known[max(known)], known)


def wrappers(known: dict[int, Process]) -> list[str]:
    return [" ".join(known[pid].argv) for pid in launched(known).wrappers]


@pytest.mark.parametrize(
    ("known", "kind", "told"),
    [
        (tree(VLLM, hangup_ignored=True), "background", "in the background with nohup"),
        (tree("-bash", "bash run.sh", VLLM), "background", "in the background"),
        (tree("sshd", "-bash", VLLM, terminal=True), "terminal", "in the foreground of a login's terminal"),
        (tree("sshd", "-bash", VLLM, terminal=True, hangup_ignored=True), "background", "in the background with nohup"),
        (tree("tmux: server|tmux new -d", "-bash", VLLM), "tmux", "tmux session"),
        (tree("tmux: server|tmux new -d", VLLM), "tmux", "tmux session"),
        (tree("screen|SCREEN -dmS x", "/bin/bash", VLLM), "screen", "screen session"),
        (tree(VLLM, group="/system.slice/cron.service"), "background", "in the background, from a cron job"),
        (tree(VLLM, group="/system.slice/ssh.service"), "background", "in the background"),
        (tree(VLLM, group="/system.slice/my-llm.service"), "unit", "systemd unit my-llm.service"),
        (tree(VLLM, group="/system.slice/system-llm.slice/llm@a.service"), "unit", "systemd unit llm@a.service"),
        (tree(VLLM, group="/user.slice/user-7.slice/user@7.service/app.slice/l.service"), "user-unit",
         "systemd user unit l.service of uid 7"),
        (tree(VLLM, group="/user.slice/user-7.slice/user@7.service/tmux-spawn-1.scope"), "background",
         "in the background"),
        (tree("supervisord|/usr/bin/python3 /usr/bin/supervisord -c x", VLLM, group="/system.slice/supervisor.service"),
         "supervisor", "under supervisord"),
        (tree("runsv llm", "sh ./run", VLLM, group="/"), "supervisor", "under runsv"),
        (tree(VLLM, group="/kubepods.slice/kubepods-pod1.slice/cri-containerd-" + "a" * 64 + ".scope", space="pod"),
         "pod", "Kubernetes pod"),
        (tree("containerd-shim|/usr/bin/containerd-shim-runc-v2 -id x", VLLM, group=DOCKER, space="c"), "container",
         "docker container 000000000000"),
        (tree(VLLM, group="/machine.slice/libpod-" + "b" * 64 + ".scope", space="c"), "container",
         "podman container bbbbbbbbbbbb"),
        (tree(VLLM, group="/", space="other"), "container", "unknown container"),
    ],
)  # fmt: skip
def test_kinds(known: dict[int, Process], kind: str, told: str) -> None:
    launch = launched(known)
    assert launch.kind == kind
    assert _adopt_launch.told(launch, known[max(known)]).strip() == told


def test_a_container_with_its_own_init_is_a_host() -> None:
    known = tree("systemd|/sbin/init", VLLM, group=DOCKER, space="c")
    known[2] = Process(2, 1, 2, "systemd", ("/sbin/init",), (DOCKER,), space="c")
    assert launched(known).detail == "a whole system runs in it"


@pytest.mark.parametrize(
    ("known", "above"),
    [
        (tree("-bash", "bash run.sh", VLLM), ["bash run.sh"]),
        (tree("-bash", "uv run vllm serve m", VLLM), ["uv run vllm serve m"]),
        (tree("-bash", "sudo -E vllm serve m", VLLM), ["sudo -E vllm serve m"]),
        (tree("sh -c x", "bash -lc x", VLLM), ["bash -lc x", "sh -c x"]),
        (tree("-bash", VLLM), []),
        (tree("bash -l", VLLM), []),
        (tree("/usr/bin/my-program", VLLM), []),
        # The pane's own process is closed with its window.
        (tree("tmux: server|tmux", "sh -c x", VLLM), []),
        (tree("tmux: server|tmux", "-bash", "bash run.sh", VLLM), ["bash run.sh"]),
    ],
)
def test_what_lives_for_the_server_alone(known: dict[int, Process], above: list[str]) -> None:
    assert wrappers(known) == above


def test_the_pane_is_what_the_multiplexer_runs() -> None:
    known = tree("tmux: server|tmux", "-bash", "bash run.sh", VLLM)
    assert launched(known).pane == 3
    assert launched(tree("screen|SCREEN -dm", VLLM)).pane == 3


def test_a_ring_of_parents_ends() -> None:
    one = Process(5, 6, 1, "a", ("a",))
    two = Process(6, 5, 1, "b", ("b",))
    known = {5: one, 6: two}
    assert [process.pid for process in _adopt_launch.ancestors(5, known)] == [6]
    assert _adopt_launch.descendants(5, known) == {5, 6}


@given(
    st.lists(
        st.tuples(st.integers(1, 9), st.integers(0, 9), st.text(max_size=8), st.lists(st.text(max_size=6))), min_size=1
    ),
    st.lists(st.text(max_size=40), max_size=3),
)
def test_nothing_in_proc_breaks_it(rows: list[tuple[int, int, str, list[str]]], groups: list[str]) -> None:
    known = {pid: Process(pid, parent, 1, name, tuple(argv), tuple(groups)) for pid, parent, name, argv in rows}
    server = next(iter(known.values()))
    launch = classify(server, known)
    assert _adopt_launch.told(launch, server)
    assert server.pid not in launch.wrappers
