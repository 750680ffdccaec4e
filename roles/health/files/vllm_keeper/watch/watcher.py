# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One instance, looked at again and again: sees, has judged, repairs, remembers.

A look at a server that is well costs a request or two on one connection and no process, and while it visibly goes on
with its users' work next to no time. The manager is asked when something has happened, before anything is done, and now
and then.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace

from vllm_keeper import decision as d
from vllm_keeper import probe
from vllm_keeper import state as st
from vllm_keeper.aws import Aws, AwsError
from vllm_keeper.clock import duration
from vllm_keeper.context import Context
from vllm_keeper.managers import ManagerError
from vllm_keeper.signals import GpuFault, worst
from vllm_keeper.signals.faults import HostSignals
from vllm_keeper.verbs import check, orders
from vllm_keeper.watch import counters, evidence, fleet, wire
from vllm_keeper.watch.activity import Activity
from vllm_keeper.watch.board import Board
from vllm_keeper.watch.canary import Canary
from vllm_keeper.watch.eject import Ejector
from vllm_keeper.watch.family import EVENTS, Family
from vllm_keeper.watch.judgement import Judgement, Look, Memory, at_work, judge
from vllm_keeper.watch.start_judgement import MOST, StartMemory, judge_start
from vllm_keeper.watch.vital_signs import VitalSigns

ASK_AGAIN = 600.0  # seconds until the manager is asked though nothing happened
LOADING = 10.0  # the same while it loads
NOBODY = 5.0  # and while there is no process
KIN = 600.0  # and until its processes are listed again: those that end are known at once, and in doubt all are listed
KIN_AGAIN = 1.0  # at least
JUDGE = 15.0  # seconds between two looks at whether a manager restarts it in vain
FIRST_ANSWER = 10.0
HEALTH_EVERY = 5.0  # seconds, while /metrics says that all is well
GLANCES = 120.0  # seconds for which a glance will do
PROMPT = 0.2  # seconds for the answer to one, or a part of it: what takes longer is worth a whole look
ROOM = 64  # bytes by which answers differ in length, one from the next
SHORTEST = 0.1  # seconds that a silent API has for an answer at least
SILENT = ("timeout", "refused", "broken")
ENGINE_GRACE = 2.0  # for /health to say that a lost engine matters
PROGRESSES = 2.5  # seconds: an idle server's canary makes progress every second
FLEET_AGAIN = 2.0
LOOKS = 40  # kept as evidence
STANDS_STILL = 5.0  # seconds, from which on it is told of a start
START_AFTER = 10.0  # seconds that it was seen idle
REPAIR_PAUSE = 5.0  # after one was ordered, until another can be: managers take a moment to show it
FAST = 0.05
DRY = "nothing done, because of dry_run"


class Watcher:
    def __init__(
        self,
        context: Context,
        board: Board,
        gpus: HostSignals | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.context, self.board, self.clock, self.wall = context, board, clock, wall
        instance = context.instance
        self.gpus = gpus if instance.gpu.enabled else None
        aws = Aws(instance.aws, instance.name, instance.port)
        self.aws = aws if instance.aws.target_groups or instance.aws.group else None
        self.ejector = Ejector(aws, context.log, clock) if instance.aws.target_groups else None
        self._claimed = False
        self._judged_at = float("-inf")
        self.settings = context.instance.watch
        self.name = context.instance.name
        self._begun = clock()
        self._server = wire.Wire(context.instance.base_url)
        self._metrics, self._health_at = counters.SOME, float("-inf")
        self.family = Family(context.proc)
        self.canary = Canary(context.instance, context.server, self.family.wake, clock)
        self._workers, self._api = Activity(context.proc), Activity(context.proc)
        self._vital_signs = VitalSigns(context.proc, self._gpu_memory)
        self._start, self._start_ask = StartMemory(), False
        self.book = evidence.load(context.store.directory, self.name)
        self.memory = Memory(steps=self.book.steps.moved(clock() - wall(), clock()))
        self._saved_steps = self.memory.steps
        self._new = True  # whether it has not seen a process of the server yet
        self._process: d.Observation | None = None
        self._process_at = self._kin_at = float("-inf")
        self._state_mark: tuple[int, ...] = ()
        self._state_file = str(context.store.path)
        self._drained = ""
        self._engine_lost: tuple[int, float] | None = None
        self._repaired_at = float("-inf")
        self._doubt_since: float | None = None
        self._idle_since: float | None = None
        self._looked_at = float("-inf")
        self._calm = False  # whether nothing was wrong or under way at the last whole look
        self._glanced: float | None = None  # when a glance began that did not do, so that this look is its sequel
        self._prompt = min(PROMPT, self.settings.timeout)
        self._said = b""  # by /metrics, at the last whole look
        self._told = ""
        self._seen: deque[str] = deque(maxlen=LOOKS)
        self._repairs: dict[str, int] = {}
        self._detection = self._recovery = (0, 0.0, 0.0)

    # --- the loop -------------------------------------------------------------------------------------------

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            self._begun = self.clock()
            try:
                pause = self.step()
            except (ManagerError, st.StateError, OSError) as error:
                self.board.show(self.name, verdict="unknown", reason=self.context.log.clean(str(error)))
                self._say("warning", f"cannot be looked at: {error}")
                pause = self.settings.interval
            for _pause in self.rest(pause):
                pass

    @property
    def beat(self) -> float:
        """When it last began to look, by its clock."""
        return max(self._begun, self.board.still.get(self.name, (0.0, b""))[0])

    def close(self) -> None:
        self.family.close()

    def step(self) -> float:
        """One whole look and what follows from it; seconds until the next look."""
        begun, self._glanced = self._glanced or self.clock(), None
        self._calm = False
        self._read_on()
        look = self.look(begun)
        memory, judgement = judge(self.memory, look, self.settings)
        if judgement.action == d.KILL and look.engine_active is False and self._newcomers(begun):
            look = replace(look, engine_active=True)
            memory, judgement = judge(self.memory, look, self.settings)
        self.memory = memory
        loads = bool(look.pid) and d.loads(look.process)
        judgement = self._judge_start(look, judgement, loads)
        self._note(look, judgement)
        if judgement.action != d.START:
            self._idle_since = None
        if judgement.canary:
            self.canary.send()
        if judgement.action != d.NONE:
            return self._act(look, judgement)
        self._show(look, judgement)
        self._after(judgement)
        if look.engine_lost or self.memory.silent.stalled:
            return FAST  # the question itself takes its time
        if judgement.doubt:
            return self.settings.doubt_interval
        well = judgement.verdict in ("healthy", "busy") and not judgement.canary and look.canary.since is None
        # Where it is out of its target groups, each whole look may try again to put it back.
        self._calm = well and self.family.held and (self.ejector is None or not self.ejector.out)
        again = begun + min(self.settings.interval, MOST if loads else self.settings.interval)
        if judgement.canary_due is not None and not judgement.canary:
            again = min(again, judgement.canary_due)  # when it is due, and not a look later
        return max(FAST, again - self.clock())

    def rest(self, pause: float) -> Iterator[float]:
        """Until the next whole look: waits PAUSE seconds, and while a server that was well goes on, glances at it.
        Yields the seconds of each wait before it.

        A glance is one question, which shows that it goes on with its users' work. Nothing can be held against it then,
        so the answer is not even read until something has to be judged. What else there is to see, a whole look sees
        within two minutes.

        It is one function that calls few others, because beside an engine that computes nothing of it is in the CPU's
        caches any more when it goes on: each function of Python's takes some 5 us then, whatever it does, and a buffer
        of 64 KiB in place of 2 some 15 us.
        """
        lent = self._server.lend(self._metrics, self._prompt) if self._calm else None
        if lent is None:
            yield pause
            self.family.wait(pause)
            return
        link, question = lent
        poll, clock, still, name = self.family.poll, self.clock, self.board.still, self.name
        goes_on, queued, interval, events = counters.goes_on, counters.queued, self.settings.interval, EVENTS
        fine, last, parts = wire.OK, wire.LAST_CHUNK, range(wire.PARTS)
        before, waits, until = self._said, queued(self._said), clock() + GLANCES
        least = part = wire.LARGEST_PART
        heeded = self.family.notice is not None
        while True:
            yield pause
            if poll(pause, events):
                self.family.wait(0)
                return
            if not heeded and self._mark() != self._state_mark:
                return
            begun, answer = clock(), b""
            if begun >= until:
                return
            try:
                link.send(question)
                for _part in parts:
                    answer += link.recv(part)
                    if answer.endswith(last) or wire.ended(answer):
                        break
            except OSError:
                pass
            if not (answer.startswith(fine) and answer.endswith(last)):
                self._server.close()  # whose the rest is could not be told
                break
            if not goes_on(before, answer):
                break
            at = clock()
            before, still[name] = answer, (at, answer)
            if queued(answer) != waits:
                waits = not waits
                self._show_work(answer)
            if not least <= len(answer) <= part:
                # To be woken once, by about all of it, rather than by its head and by its body.
                least, part = max(1, len(answer) - ROOM), len(answer) + ROOM
                link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, least)
            pause = max(FAST, begun + interval - at)
        self._glanced = begun

    def _show_work(self, metrics: bytes) -> None:
        running, waiting = counters.requests(metrics)
        verdict, reason = at_work(running, waiting)
        self.board.show(self.name, verdict=verdict, reason=reason, running=running, waiting=waiting)

    def _read_on(self) -> None:
        """What the last glance saw, remembered as the whole look that it stood for, before anything else is judged."""
        at, body = self.board.still.get(self.name, (0.0, b""))
        if at > (self.memory.at or 0.0) and self._process is not None:
            seen = Look(
                at, self._process, self.memory.pid, counters=counters.parse(body), metrics=True, canary=self.canary.news
            )
            self.memory, judgement = judge(self.memory, seen, self.settings)
            self._write_down(seen, judgement)

    # --- seeing ---------------------------------------------------------------------------------------------

    def look(self, begun: float) -> Look:
        process = self._observe(begun)
        pid = self.family.main.pid if self.family.main is not None else 0
        before = d.decide_before_probe(process)
        if not self.context.manager.HOOKED:
            self._in_place_of_hooks(begun, pid, process, before)
        if not pid or before is not None:
            self._doubt_since = None
            return Look(at=self.clock(), process=process, pid=pid, canary=self.canary.news)
        if self._kin_is_old(begun):
            self.family.refresh()
            self._kin_at = begun
        api_active = engine_active = None
        if self._doubt_since is not None:
            # Before anything is asked, so that it is not our own question that keeps the API busy.
            api_active = self._api.look(self.family.others, begun)
            engine_active = self._workers.look(self.family.workers, begun)
        lost = self._lost(begun)
        fault = self._gpu_fault(begun, pid, process)
        # Before the counters: a canary that is answered between the two would be progress twice, a look apart.
        news = self.canary.news
        health, counted, answered = self._ask(begun, lost)
        return Look(
            at=self.clock(),
            begun=begun,
            process=process,
            pid=pid,
            health=health,
            counters=counted,
            metrics=answered,
            canary=news,
            api_active=api_active,
            engine_active=engine_active,
            engine_lost=lost,
            gpu_fault=fault.evidence if fault is not None else "",
            gpu_remedy=fault.remedy if fault is not None else "",
        )

    def _judge_start(self, look: Look, judgement: Judgement, loads: bool) -> Judgement:
        """The same, or that of a start that stands still."""
        if not loads:
            self._start, self._start_ask = StartMemory(), False
            self._vital_signs.forget()
            return judgement
        answers = None
        if self._start_ask:
            answers = self._server.get(self.context.instance.health_path, self.settings.timeout).kind == "ok"
        signs = self._vital_signs.look(look.pid, self._start_ask)
        self._start, found = judge_start(self._start, look.at, look.pid, signs, answers, self.settings)
        self._start_ask = found.ask
        if found.reason:
            limit = self.settings.start_stall_after
            return Judgement("hung", d.KILL, found.reason, stalled=found.seconds, limit=limit)
        if found.seconds < STANDS_STILL:
            return judgement
        lock = f", while another process has {signs.lock} open" if signs.lock else ""
        reason = f"{judgement.reason}; nothing of it has moved for {duration(found.seconds)}{lock}"
        return replace(judgement, reason=reason, stalled=found.seconds)

    def _gpu_memory(self) -> int | None:
        return None if self.gpus is None else self.gpus.used(self.context.instance.gpu.devices)

    def _kin_is_old(self, at: float) -> bool:
        """Each time all processes of the host are read: in doubt once, and not each second for twelve instances."""
        doubt = self._doubt_since
        if doubt is not None and self._kin_at < doubt:
            return at - self._kin_at > KIN_AGAIN
        return at - self._kin_at > (KIN if self.family.engines and doubt is None else LOADING)

    def _newcomers(self, at: float) -> bool:
        """Whether the engines have begun a process since their processes were listed: while vLLM waits for a compiler,
        that has a process of its own for each part of its work, and those are all that use a CPU.
        """
        known = set(self.family.workers)
        self.family.refresh()
        self._kin_at = at
        return not known.issuperset(self.family.workers)

    def _in_place_of_hooks(self, at: float, pid: int, process: d.Observation, before: d.Decision | None) -> None:
        """Where nothing runs around a start: parks what is restarted in vain, and notices the first answer."""
        if at - self._judged_at >= JUDGE:
            self._judged_at = at
            orders.judge(self.context)
        if pid and before is not None and before.verdict == "starting" and not process.intent:
            path = self.context.instance.health_path
            if self._server.get(path, self.settings.timeout).kind == "ok" and self._completes():
                check.remember_ready(self.context, pid)

    def _completes(self) -> bool:
        needs = self.context.instance.ready_check == "completion"
        return not needs or probe.completion(self.context.server, FIRST_ANSWER).kind == "ok"

    def _ask(self, at: float, lost: int) -> tuple[d.Health | None, counters.Counters | None, bool]:
        """(/health where it was asked, what /metrics says, whether it answered)"""
        metrics = self._server.get(self._metrics, self._within())
        counted = counters.parse(metrics.body) if metrics.kind == "ok" else None
        self._said = metrics.body if metrics.kind == "ok" else b""
        if metrics.kind in SILENT:
            return d.Health(metrics.kind, metrics.detail), None, False
        if counted is None:
            # Several API processes share their metrics, and then none is found by its name.
            self._metrics = counters.ALL
        if counted is not None and self._doubt_since is None and not lost and at - self._health_at < HEALTH_EVERY:
            return None, counted, True
        # What it can say that counters and processes do not, it says for good.
        self._health_at = at
        health = self._server.get(self.context.instance.health_path, self.settings.timeout)
        return d.Health(health.kind, health.detail), counted, True

    def _within(self) -> float:
        """Seconds for an answer: of an API that is silent not beyond the moment in which it is to be judged."""
        silent, timeout = self.memory.silent.stalled, self.settings.timeout
        left = self.settings.stall_after - silent - (self.clock() - (self.memory.at or 0.0))
        # A little beyond: it has to have been silent for longer than the limit.
        return min(timeout, max(SHORTEST, left + 0.02)) if silent and left > 0 else timeout

    def _gpu_fault(self, at: float, pid: int, process: d.Observation) -> GpuFault | None:
        """One with which the work cannot go on, and does not: who still makes progress does not feel it."""
        if self.gpus is None or at - (self.memory.progress_at or at) < PROGRESSES:
            return None
        return worst(fault for fault in self._gpu_faults(pid, process) if fault.urgent)

    def _gpu_faults(self, pid: int, process: d.Observation) -> list[GpuFault]:
        if self.gpus is None:
            return []
        family = [pid, *self.family.workers, *self.family.others]
        return self.gpus.faults(self.name, pid, process.process_age, self.context.instance.gpu.devices, family)

    def _lost(self, at: float) -> int:
        pid = self.family.lost()
        if not pid:
            self._engine_lost = None
            return 0
        if self._engine_lost is None or self._engine_lost[0] != pid:
            self._engine_lost = (pid, at)
        elif at - self._engine_lost[1] > ENGINE_GRACE:
            self.family.give_up(pid)
            self._engine_lost = None
            return 0
        return pid

    def _observe(self, at: float, fresh: bool = False) -> d.Observation:
        """What manager and history say: as it was, while nothing has happened since."""
        if self.family.notice is None:
            # A host's first start makes the directory. Before the mark, so that no change falls between.
            self.family.heed(self.context.store.directory)
        mark = self._mark()
        known = self._process
        if known is not None and not fresh and mark == self._state_mark and at - self._process_at < self._lasts(known):
            grown = None if known.process_age is None else known.process_age + at - self._process_at
            return replace(known, process_age=grown)
        main = self.family.main
        if known is not None and known.ready and main is not None and not self.family.alive():
            self._revive(main.pid, f"its API process {main.pid} ended by itself")
            mark = self._mark()
        seen, observed, state = self.context.observe()
        if self._new and observed.pausing and (ended := _ended_while_serving(state)):
            self._new = False
            self._revive(ended.pid or 0, f"its API process {ended.pid} ended by itself while nobody watched")
            mark = self._mark()
            seen, observed, state = self.context.observe()
        pid = observed.main_pid or 0
        self._new = self._new and not pid
        if self.family.main is None or self.family.main.pid != pid or not self.family.alive():
            self.family.adopt(pid)
            self._metrics, self._health_at = counters.SOME, float("-inf")
            self.canary.reset()
            self._workers.forget()
            self._api.forget()
            self._kin_at, self._doubt_since, self._engine_lost = float("-inf"), None, None
        self._drained = state.drained.reason if state.drained is not None else ""
        self._process, self._process_at, self._state_mark = seen, at, mark
        return seen

    def _lasts(self, known: d.Observation) -> float:
        """For how many seconds what was observed is good enough, if nothing happens."""
        if self.family.main is None:
            return NOBODY
        if not self.family.alive():
            return 0.0
        return ASK_AGAIN if known.ready and known.phase == d.RUNNING else LOADING

    def _mark(self) -> tuple[int, ...]:
        """Changes with the history's file."""
        try:
            seen = os.stat(self._state_file)
        except OSError:
            return ()
        return (seen.st_mtime_ns, seen.st_ino, seen.st_size)

    # --- acting ---------------------------------------------------------------------------------------------

    def _revive(self, pid: int, reason: str) -> None:
        """The API has ended by itself: a new one is started at once, rather than after the manager's own pause.

        Whether somebody wanted it is known: a manager's stop writes that down before it signals anything.
        """
        context = self.context
        self.family.adopt(0)
        begun = self.clock()
        state = context.state()
        if state.stopped is not None or state.parked is not None or state.intent is not None:
            return
        # Where nothing told of a stop beforehand, it may have been wished.
        if not context.manager.HOOKED or context.manager.host_going_down():
            return
        incident = self._incident("dead", "start at once", reason, pid, 0.0)
        if self.settings.dry_run or not context.manager.REVIVES:
            incident.outcome = DRY if self.settings.dry_run else "left to its manager"
            self._count("dead", 0.0)
            self._save()
            return
        context.try_update(lambda one, now: setattr(one, "intent", st.Intent("revive", now, reason)))
        done = context.manager.revive()
        spent = f"{(self.clock() - begun) * 1000:.0f} ms"
        incident.outcome = context.manager.why(done) if done.code else f"start ordered within {spent}"
        self._say("warning", f"dead: {reason}; {incident.outcome}")
        self._count("dead", 0.0)
        self._save()

    def _with_gpus(self, look: Look, judgement: Judgement) -> Judgement:
        """A hang, told with what its GPUs have reported: that is what whoever reads it has to look into."""
        found = worst(self._gpu_faults(look.pid, look.process)) if judgement.verdict == "hung" else None
        return judgement if found is None else replace(judgement, reason=f"{judgement.reason}; {found.evidence}")

    def _act(self, look: Look, judgement: Judgement) -> float:
        judgement = self._with_gpus(look, judgement)
        held = self._held_back(look, judgement)
        if held is not None:
            return held
        context = self.context
        words = DRY if self.settings.dry_run else ""
        if words and self._told == judgement.verdict:
            return self.settings.interval
        incident = self._incident(
            judgement.verdict, judgement.action, judgement.reason, look.pid, max(judgement.stalled, 0.0)
        )
        if not words:
            if self.ejector is not None:
                self.ejector.leave()
            decision = d.Decision(judgement.verdict, judgement.action, judgement.reason)
            with context.store.lock("check", wait=0) as held:
                if not held:
                    self.book.incidents.remove(incident)
                    return self.settings.doubt_interval  # cron's check is repairing it
                _code, done = check.repair(context, decision, look.pid)
            words = done.lstrip("; ")
            self._repaired_at, self._idle_since = self.clock(), None
            self._count(judgement.verdict, judgement.stalled)
        incident.outcome = words
        self._told = judgement.verdict
        context.log.warning(f"{judgement.verdict}: {judgement.reason}; {words}")
        self._save()
        self._process = None
        return self.settings.doubt_interval

    def _held_back(self, look: Look, judgement: Judgement) -> float | None:
        """Seconds until the next look, where nothing is to be done yet; None where it is."""
        if look.at - self._repaired_at < REPAIR_PAUSE:
            return self.settings.doubt_interval
        # Out of the balancer before it is touched.
        self._show(look, judgement)
        if judgement.action == d.START:
            return None if self._idle_long(look) else self.settings.interval
        now, loads = self._observe(self.clock(), fresh=True), d.loads(look.process)
        if loads:
            same = d.loads(now) and self.family.main is not None and self.family.main.pid == look.pid
            return None if same else self.settings.doubt_interval  # a start serves nobody: no breaker
        if d.decide_before_probe(now) is not None:
            return self.settings.doubt_interval  # something has happened meanwhile; the next look sees what
        if judgement.verdict in ("hung", "gpu_fault") and not self._may_act(look, judgement):
            return FLEET_AGAIN
        return None

    def _may_act(self, look: Look, judgement: Judgement) -> bool:
        """A server that still runs is killed only while few enough others of its group are out."""
        instance = self.context.instance
        if self.settings.dry_run:
            return True
        if self.aws is not None and not instance.fleet.url:
            allowed, why = self._claims()
        else:
            allowed, why = fleet.may_act(instance.fleet)
        if not allowed:
            held = f"{judgement.reason}; not repaired while others of the group are out: {why}"
            self._show(look, replace(judgement, reason=held))
            self._say("warning", f"{judgement.verdict}: {held}")
        return allowed

    def _claims(self) -> tuple[bool, str]:
        """The breaker through AWS, where there is no balancer of ours to ask."""
        if self.aws is None:
            return True, ""
        try:
            answer = self.aws.claim()
        except AwsError as error:
            # As with a balancer that does not answer: this host's own budget is all there is.
            self._say("warning", f"AWS cannot be asked how many others are out: {error}")
            return True, ""
        self._claimed = bool(answer.get("granted"))
        return self._claimed, str(answer.get("reason") or "AWS: others of the group are out or under repair")

    def _release(self) -> None:
        if self._claimed and self.aws is not None:
            self._claimed = False
            try:
                self.aws.release()
            except AwsError as error:
                self.context.log.warning(f"the claim is left to expire: {error}")

    def _idle_long(self, look: Look) -> bool:
        """Who has just installed it, or ended it, is about to start it."""
        if self._idle_since is None or look.at - self._looked_at > 2 * NOBODY + self.settings.interval:
            self._idle_since = look.at
        self._looked_at = look.at
        return look.at - self._idle_since >= START_AFTER

    def _incident(self, verdict: str, action: str, reason: str, pid: int, seconds: float) -> evidence.Incident:
        incident = evidence.Incident(
            at=self.wall(),
            verdict=verdict,
            action=action,
            reason=self.context.log.clean(reason),
            pid=pid,
            seconds=round(seconds, 2),
            looks=list(self._seen),
            dry_run=self.settings.dry_run,
        )
        self.book.incidents.append(incident)
        del self.book.incidents[: -evidence.KEEP]
        return incident

    def _after(self, judgement: Judgement) -> None:
        """A repair has ended when a completion was answered again."""
        if judgement.verdict in ("healthy", "busy") and not judgement.doubt:
            self._told = ""
            incident = evidence.open_incident(self.book.incidents)
            if incident is not None:
                incident.served_again = round(max(0.0, self.wall() - incident.at), 1)
                count, total, _last = self._recovery
                self._recovery = (count + 1, total + incident.served_again, incident.served_again)
                self._release()
                self.context.log.notice(f"serves again, {duration(incident.served_again)} after: {incident.reason}")
                self._save()
            if self.ejector is not None:
                self.ejector.come_back()
        if self.memory.steps.differs(self._saved_steps):
            self._save()

    def _count(self, verdict: str, seconds: float) -> None:
        self._repairs[verdict] = self._repairs.get(verdict, 0) + 1
        count, total, _last = self._detection
        self._detection = (count + 1, total + seconds, seconds)

    def _save(self) -> None:
        self._saved_steps = self.memory.steps
        self.book.steps = self._saved_steps.moved(self.wall() - self.clock(), self.wall())
        try:
            evidence.save(self.context.store.directory, self.name, self.book)
        except OSError as error:
            self._say("warning", f"what was seen cannot be kept: {error}")

    # --- telling --------------------------------------------------------------------------------------------

    def _note(self, look: Look, judgement: Judgement) -> None:
        # A repair that has to wait ends no doubt: what was seen of its processes would have to be seen anew.
        doubt = judgement.doubt or judgement.action == d.KILL
        if doubt and self._doubt_since is None:
            self._doubt_since = look.at
        elif not doubt and self._doubt_since is not None:
            self._doubt_since = None
            self._workers.forget()
            self._api.forget()
        self._write_down(look, judgement)

    def _write_down(self, look: Look, judgement: Judgement) -> None:
        """For who asks later why something was done."""
        stamp = time.strftime("%H:%M:%S", time.gmtime(self.wall() - (self.clock() - look.at)))
        parts = [f"{stamp} {judgement.verdict}"]
        if look.health is not None:
            parts.append(look.health.detail)
        if look.counters is not None:
            moved = " ".join(
                f"{name}:{sum(engine.moved):.0f}" for name, engine in sorted(look.counters.engines.items())
            )
            parts.append(f"counters {moved}, {look.counters.running:g} run, {look.counters.waiting:g} wait")
        if look.canary.since is not None:
            parts.append(f"canary under way for {look.at - look.canary.since:.1f} s")
        for what, active in (("API", look.api_active), ("engine", look.engine_active)):
            if active is not None:
                parts.append(f"{what} {'active' if active else 'idle'}")
        if judgement.stalled:
            parts.append(f"no progress for {judgement.stalled:.1f} s")
        self._seen.append(self.context.log.clean(", ".join(parts)))

    def _show(self, look: Look, judgement: Judgement) -> None:
        counted, longest = look.counters, self.memory.steps.longest
        self.board.show(
            self.name,
            verdict=judgement.verdict,
            reason=self.context.log.clean(judgement.reason),
            action=judgement.action,
            pid=look.pid,
            drained=self._drained,
            mute=judgement.mute,
            stalled=round(judgement.stalled, 2),
            limit=round(judgement.limit, 2),
            longest=round(longest.taken, 2),
            longest_idle=round(longest.idle, 2),
            canaries=dict(self.canary.sent),
            canary_seconds=round(self.canary.seconds, 3),
            running=0.0 if counted is None else counted.running,
            waiting=0.0 if counted is None else counted.waiting,
            repairs=dict(self._repairs),
            detection=self._detection,
            recovery=self._recovery,
            dry_run=self.settings.dry_run,
        )

    def _say(self, level: str, text: str) -> None:
        """Once until something else is to be said."""
        if text != self._told:
            self._told = text
            (self.context.log.warning if level == "warning" else self.context.log.notice)(text)


def _ended_while_serving(state: st.State) -> st.Start | None:
    """The last run, if it ended by itself after it had become ready: what never did is the gate's to pace."""
    last = state.starts[-1] if state.starts else None
    return last if last is not None and last.ready_at is not None and last.end == st.FAILED else None
