# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs programs through a module's run_command with an environment and an input of their own (private to this
collection, runs on the host)."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from subprocess import Popen
from typing import Any, Protocol

# Whatever the login of Ansible's user has.
UMASK = 0o022


@dataclass(frozen=True)
class Done:
    """How a program ended."""

    status: int
    output: str = ""
    errors: str = ""


class Runner(Protocol):
    """What the classes of this collection ask to have a program run; tests give one of their own.

    environment: all variables that the program gets, or None for those of the module itself. given: its standard input.
    folder: its working directory. held: descriptors that it keeps open. timeout: seconds until it is killed.
    Raises OSError where it cannot be started, TimeoutError where it was killed.
    """

    def __call__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        given: str = "",
        folder: str | None = None,
        held: Sequence[int] = (),
        timeout: float | None = None,
    ) -> Done: ...


class RunCommand(Protocol):
    """AnsibleModule.run_command."""

    def __call__(self, args: list[str], **options: Any) -> tuple[int, str, str]: ...


def runner(run_command: RunCommand) -> Runner:
    """The real one. Nothing that is secret may stand in a command: it shows in the process list and in debug logs."""

    def run(
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        given: str = "",
        folder: str | None = None,
        held: Sequence[int] = (),
        timeout: float | None = None,
    ) -> Done:
        watch = _Watch(timeout)
        with _variables(environment), _input(given), watch:
            status, output, errors = run_command(
                list(command),
                cwd=folder,
                umask=UMASK,
                pass_fds=tuple(held),
                before_communicate_callback=watch.start,
                errors="replace",
                expand_user_and_vars=False,
                handle_exceptions=False,
            )
        if watch.killed:
            raise TimeoutError(f"no answer within {timeout:g} s")
        return Done(status, output, errors)

    return run


@contextlib.contextmanager
def _variables(environment: Mapping[str, str] | None) -> Iterator[None]:
    """run_command only adds to this process's variables, and a PYTHONPATH of the login must not reach what is built."""
    if environment is None:
        yield
        return
    kept = dict(os.environ)
    try:
        os.environ.clear()
        os.environ.update(environment)
        yield
    finally:
        os.environ.clear()
        os.environ.update(kept)


@contextlib.contextmanager
def _input(given: str) -> Iterator[None]:
    """Without data a program would share the input of Ansible's own connection; with it, run_command breaks off where
    the program ends before it has read all, and what it said is lost. A file in memory does neither."""
    kept = os.dup(0)
    try:
        source = os.memfd_create("input")
        try:
            with open(source, "wb", closefd=False) as stream:
                stream.write(given.encode())
            os.lseek(source, 0, os.SEEK_SET)
            os.dup2(source, 0)
        finally:
            os.close(source)
        yield
    finally:
        os.dup2(kept, 0)
        os.close(kept)


class _Watch:
    """Kills a program that takes too long."""

    def __init__(self, timeout: float | None) -> None:
        self.timeout = timeout
        self.killed = False
        self.timer: threading.Timer | None = None

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_error: object) -> None:
        if self.timer:
            self.timer.cancel()

    def start(self, process: Popen[bytes]) -> None:
        if self.timeout is None:
            return

        def kill() -> None:
            if process.poll() is None:
                self.killed = True
                process.kill()

        self.timer = threading.Timer(self.timeout, kill)
        self.timer.daemon = True
        self.timer.start()
