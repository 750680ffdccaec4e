# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every verb works with: one instance, its memory, its manager, a clock and a log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from vllm_keeper import config, managers, processes
from vllm_keeper import decision as d
from vllm_keeper import state as st
from vllm_keeper.clock import Clock, Moment, age
from vllm_keeper.log import Log
from vllm_keeper.managers import Manager, ManagerError, Observed
from vllm_keeper.probe import Server

Definition = tuple[list[str], list[str]]  # files and facts, as Manager.definition says
STALE_INTENT = 600.0  # an order that its manager never carried out is forgotten


@dataclass
class Context:
    instance: config.Instance
    store: st.Store
    manager: Manager
    server: Server
    log: Log
    clock: Clock
    proc: Path = processes.PROC

    def state(self) -> st.State:
        state = self.store.load()
        self._forget_stale(state)
        self._catch_up(state)
        return state

    def update(self, change: Callable[[st.State, Moment], None]) -> st.State:
        ended: list[str] = []

        def whole(state: st.State) -> None:
            self._forget_stale(state)
            ended.extend(self._catch_up(state))
            change(state, self.clock.now())

        state = self.store.update(whole)
        for reason in ended:
            self.log.notice(f"ended: {reason}")
        return state

    def _catch_up(self, state: st.State) -> list[str]:
        """What a manager that has no hooks did since."""
        if self.manager.HOOKED:
            return []
        try:
            return self.manager.catch_up(state, self.clock.now(), self.telling)
        except ManagerError as error:
            self.log.warning(f"what happened since the last look is unknown: {error}")
            return []

    def try_update(self, change: Callable[[st.State, Moment], None]) -> bool:
        """For those who must go on although nothing can be remembered."""
        try:
            self.update(change)
        except st.StateError as error:
            self.log.warning(f"going on, though it cannot be remembered: {error}")
            return False
        return True

    def _forget_stale(self, state: st.State) -> None:
        """What was never carried out: for too long, or before the host's last start, which undid it."""
        limit = max(STALE_INTENT, self.instance.drain_timeout + 120)
        now = self.clock.now()
        if state.intent is not None and (state.intent.at.boot_id != now.boot_id or age(state.intent.at, now) > limit):
            state.intent = None

    def gate_facts(self, definition: Definition | None, dice: float = 0.0) -> d.GateFacts:
        instance = self.instance
        fingerprint = ""  # unknown: neither the same nor changed
        if definition is not None:
            files, facts = definition
            fingerprint = config.fingerprint([instance.config_file, instance.env_file, *files], facts)
        return d.GateFacts(
            now=self.clock.now(),
            config=fingerprint,
            model_path=instance.model_path,
            model_present=not instance.model_path or Path(instance.model_path).exists(),
            dice=dice,
        )

    def definition(self) -> Definition | None:
        try:
            return self.manager.definition()
        except ManagerError as error:
            self.log.warning(f"whether the configuration has changed is unknown: {error}")
            return None

    def parked(self, state: st.State) -> st.Parked | None:
        """What still holds; a parking whose cause is gone does not."""
        if state.parked is None or not d.still_parked(state.parked, self.gate_facts(self.definition())):
            return None
        return state.parked

    def observe(self) -> tuple[d.Observation, Observed, st.State]:
        seen, state = self.manager.observe(), self.state()
        parked = self.parked(state)
        start = state.open_start()
        ready = start is not None and start.ready_at is not None and start.pid == seen.main_pid
        observation = d.Observation(
            phase=seen.phase,
            detail=seen.detail,
            enabled=seen.enabled,
            process_age=seen.process_age,
            ready=ready,
            stopped_on_purpose=self._on_purpose(state),
            parked=parked.reason if parked else "",
            intent=state.intent.kind if state.intent else "",
            job=self._job(),
            start_timeout=self.instance.start_timeout,
        )
        return observation, seen, state

    def _on_purpose(self, state: st.State) -> bool:
        if state.stopped is None:
            return False
        # Stopped by the host's shutdown: after the next boot it is to run again. So is what was stopped on purpose; and
        # where the manager does not start it then, the next check does.
        holds_on = state.stopped.by != st.SHUTDOWN and self.manager.STARTS_ON_BOOT
        return holds_on or state.stopped.at.boot_id == self.clock.now().boot_id

    def _job(self) -> str:
        try:
            return self.manager.job()
        except ManagerError as error:
            self.log.warning(f"the manager's jobs are unknown: {error}")
            return ""

    def last_words(self, lines: int = 60) -> str:
        """The line of the logs that most likely says why it ended."""
        return self.telling(self.manager.logs(lines))

    def telling(self, lines: list[str]) -> str:
        """The one of these lines that says the most."""
        told = [self.log.clean(line) for line in lines]
        for line in reversed(told):
            if "vllm-keeper" not in line and any(word in line for word in ("error:", "Error:", "ERROR", "Exception:")):
                return line.split("]: ", 1)[-1].strip()[:300]
        return ""


def build(
    config_dir: Path,
    state_dir: Path,
    name: str,
    log: Log,
    *,
    runner: managers.Runner = managers.run,
    clock: Clock | None = None,
) -> Context:
    return of(config.load(config_dir, name), state_dir, log, runner=runner, clock=clock)


def of(
    instance: config.Instance,
    state_dir: Path,
    log: Log,
    *,
    runner: managers.Runner = managers.run,
    clock: Clock | None = None,
) -> Context:
    """The context of an instance that is known already."""
    log.instance, log.unit = instance.name, instance.unit
    secrets = config.read_env_file(instance.env_file)
    log.hide(secrets.values())
    return Context(
        instance=instance,
        store=st.Store(state_dir, instance.name, log.warning),
        manager=managers.make(instance, runner),
        server=Server(instance.base_url, secrets.get("VLLM_API_KEY", "")),
        log=log,
        clock=clock or Clock(),
    )


def with_check(context: Context, tries: int | None, delay: float | None, timeout: float | None) -> Context:
    """The command line's settings over those of the file."""
    check = context.instance.check
    check = replace(
        check,
        tries=check.tries if tries is None else tries,
        delay=check.delay if delay is None else delay,
        timeout=check.timeout if timeout is None else timeout,
    )
    return replace(context, instance=replace(context.instance, check=check))
