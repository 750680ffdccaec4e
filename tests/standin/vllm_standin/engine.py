# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine: queues requests, runs some of them at a time, and tells the API of each step what came of it.

As in vLLM, what the API shows of the queue is what the last step told: of an engine that hangs, /metrics stands still.
"""

from __future__ import annotations

import heapq
import os
import select
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from .processes import ONE_GPU, Link, hold_on, pair, spawn
from .worker import serve

BLOCKS = 65536  # tokens that the KV cache of this engine would hold


@dataclass(order=True)
class Request:
    priority: int
    arrived: float
    number: int
    prompt: int = field(compare=False)  # tokens
    left: int = field(compare=False)  # tokens still to be made
    made: int = field(default=0, compare=False)
    began: float = field(default=0.0, compare=False)
    first: float = field(default=0.0, compare=False)  # when its first token was there


class Engine:
    def __init__(self, api: Link, worker: Link, most: int, by_priority: bool, timeout: float) -> None:
        self.api, self.worker, self.most, self.by_priority, self.timeout = api, worker, most, by_priority, timeout
        self.waiting: list[Request] = []
        self.running: dict[int, Request] = {}
        self.steps = 0
        self.aborted = 0

    def serve(self) -> None:
        while True:
            self._hear()
            while self.waiting and len(self.running) < self.most:
                request = heapq.heappop(self.waiting)
                request.began = time.monotonic()
                self.running[request.number] = request
            if self.running:
                self._step()
            elif self.aborted:
                self._tell([], 0, 0)

    def _hear(self) -> None:
        """What the API asks for; waits for it only when there is nothing else to do."""
        wait = not (self.running or self.waiting or self.aborted)
        while True:
            try:
                message = self.api.receive(wait)
            except BlockingIOError:
                return
            if message is None:
                _stay()
            wait = False
            kind, number = message["kind"], message["number"]
            if kind == "abort":
                self._abort(number)
            else:
                priority = message["priority"] if self.by_priority else 0
                heapq.heappush(
                    self.waiting,
                    Request(priority, message["at"], number, message["prompt"], message["tokens"]),
                )

    def _abort(self, number: int) -> None:
        if self.running.pop(number, None) is None:
            self.waiting = [request for request in self.waiting if request.number != number]
            heapq.heapify(self.waiting)
        self.aborted += 1

    def _step(self) -> None:
        self.steps += 1
        self.worker.send(self.steps)
        self._await_worker()
        now = time.monotonic()
        outputs: list[list[Any]] = []
        prompts = 0
        for request in list(self.running.values()):
            if not request.made:
                request.first = now
                prompts += request.prompt
            request.made += 1
            request.left -= 1
            outputs.append([request.number])
            if request.left <= 0:
                del self.running[request.number]
                outputs[-1] += [
                    request.began - request.arrived, request.first - request.began, now - request.first
                ]  # fmt: skip
        self._tell(outputs, prompts, len(outputs))

    def _await_worker(self) -> None:
        poll = select.poll()
        poll.register(self.worker.end, select.POLLIN)
        if not poll.poll(self.timeout * 1000):
            print(f"TimeoutError: RPC call to execute_model timed out after {self.timeout:g} s", file=sys.stderr)
            sys.exit(1)
        if self.worker.receive() is None:
            print("RuntimeError: the worker died", file=sys.stderr)
            sys.exit(1)

    def _tell(self, outputs: list[list[Any]], prompts: int, generated: int) -> None:
        used = sum(request.prompt + request.made for request in self.running.values())
        self.aborted = 0
        message = {
            "outputs": outputs,
            "running": len(self.running),
            "waiting": len(self.waiting),
            "prompts": prompts,
            "generated": generated,
            "cache": min(1.0, used / BLOCKS),
        }
        try:
            self.api.send(message)
        except ConnectionError:
            _stay()


def _stay() -> None:
    """An orphan, in the midst of a step or idle: holds on to its memory until somebody kills it."""
    while True:
        time.sleep(3600)


def _stalls() -> bool:
    """Whether this start is to stand still, as one does that waits for a lock or a peer that never comes."""
    try:
        os.unlink(os.environ.get("STANDIN_STALL") or "")
    except FileNotFoundError:
        return False
    return True


def _worker() -> tuple[int, Link]:
    """(its pid, 0 where it is a thread of ours; the link to it)"""
    if not ONE_GPU:
        process, link = spawn("VLLM::Worker", "worker")
        return process.pid, link
    ours, theirs = pair()
    threading.Thread(target=serve, args=(Link(theirs),), daemon=True).start()
    return 0, Link(ours)


def main() -> None:
    hold_on()
    api = Link.inherited(int(sys.argv[3]))
    pid, worker = _worker()
    if _stalls():
        _stay()
    time.sleep(float(os.environ.get("STANDIN_START_SECONDS", "1")))
    if worker.receive() is None:
        sys.exit("RuntimeError: the worker did not start")
    api.send({"worker": pid})
    timeout = float(os.environ.get("VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS", "300"))
    Engine(api, worker, int(sys.argv[4]), sys.argv[5] == "priority", timeout).serve()
