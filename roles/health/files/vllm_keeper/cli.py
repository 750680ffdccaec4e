# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line: reads it, builds the context, calls the verb."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from vllm_keeper import __version__, accounts, config, context, exits, managers
from vllm_keeper import state as st
from vllm_keeper.log import Log
from vllm_keeper.logfile import LogFile
from vllm_keeper.verbs import check, drain, ending, explain, gate, gpus, operate, ready, status
from vllm_keeper.verbs import run as running

# Run by the service unit: their own trouble must never keep a server from starting or stopping.
HOOKS = ("gate", "wait-ready", "stopping", "stopped")

EPILOG = f"""\
exit codes
  {exits.OK}   check: healthy, or nothing is due (starting, stopped on purpose, parked, another check runs);
      gate: go; wait-ready: ready; status: every instance is healthy; others: done
  {exits.BAD}   check: was bad and a start or restart was ordered; wait-ready: not ready; start, restart, stop: failed;
      status: at least one instance is not healthy
  {exits.WORSE}   check: bad or unknown, and nothing could be ordered
  {exits.USAGE}  the command line is wrong
  {exits.INTERNAL}  the keeper's own trouble, for example a state directory that it cannot write
  {exits.PARKED}  parked: gate refuses the start; start and restart touch nothing
  {exits.CONFIG}  a configuration is missing or wrong

gate, wait-ready, stopping and stopped are run by the service unit. When they cannot read their configuration or
state, they warn and let the service go on.
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(exits.USAGE, f"{self.prog}: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="vllm-keeper",
        description="Keeps the vLLM servers of this host serving.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"vllm-keeper {__version__}")
    parser.add_argument("--config-dir", type=Path, default=config.DEFAULT_DIRECTORY, metavar="DIR", help="%(default)s")
    parser.add_argument("--state-dir", type=Path, default=st.DEFAULT_DIRECTORY, metavar="DIR", help="%(default)s")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=_Parser)

    def verb(name: str, text: str, many: bool = False) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=text, description=text)
        if many:
            sub.add_argument(
                "names", nargs="*", metavar="NAME", help="instances; all that are configured when none is given"
            )
        else:
            sub.add_argument("names", nargs=1, metavar="NAME", help="the instance")
        return sub

    checking = verb("check", "ask /health a few times and restart the server if every try fails (for cron)", many=True)
    checking.add_argument("--tries", type=_count, help="instead of the configured number")
    checking.add_argument("--delay", type=_seconds, help="seconds between tries")
    checking.add_argument("--timeout", type=_seconds, help="seconds for one try")
    checking.add_argument("--quiet", action="store_true", help="print only what is not in order")
    watching = verbs.add_parser("watch", help="stay, look every second and repair (vllm-keeper.service)")
    watching.add_argument("--listen", type=_address, metavar="ADDRESS:PORT", help="for /ready, /metrics and the agent")
    showing = verb("status", "say what is known of each instance", many=True)
    showing.add_argument("--json", action="store_true", help="as JSON")
    for name, text in (("start", "start it and wait until it answers"), ("restart", "drain, stop and start it again")):
        verb(name, text).add_argument("--no-wait", action="store_true", help="order it, do not wait")
    draining = verb("drain", "no more requests to it: balancers are told; waits until those that it has are answered")
    draining.add_argument("--no-wait", action="store_true", help="tell the balancers, do not wait")
    draining.add_argument("--within", type=_seconds, help="seconds to wait; drain_timeout when not given")
    draining.add_argument("--reason", default="", help="shown in status")
    explaining = verb("explain", "the evidence behind the last decisions about it")
    explaining.add_argument("--json", action="store_true", help="as JSON")
    explaining.add_argument("-n", "--count", type=_count, default=explain.FEW, help="decisions to show")
    verb("gpus", "one look at its GPUs and at what the driver wrote into the kernel's log").add_argument(
        "--json", action="store_true", help="as JSON"
    )
    verb("stop", "drain and stop it; it stays stopped until it is started or the host boots")
    verb("kill", "end all its processes at once, without draining; it stays stopped")
    parking = verb("park", "do not start or repair it until it is resumed")
    parking.add_argument("--reason", required=True, help="shown in status and journal")
    verb("resume", "lift the parking, forget earlier failures, start it").add_argument(
        "--no-start", action="store_true", help="do not start it"
    )
    reading = verb("logs", "show its logs")
    reading.add_argument("-n", "--lines", type=_count, default=100)
    reading.add_argument("-f", "--follow", action="store_true")
    for name, text in (
        ("attach", "show its terminal (tmux, screen)"),
        ("enable", "start it when the host boots"),
        ("disable", "do not start it when the host boots"),
    ):
        verb(name, text)
    retiring = verb("retire", "end it under one manager, before that one's files go: drained, stopped, nothing left")
    retiring.add_argument("--manager", choices=config.MANAGERS, required=True)
    retiring.add_argument("--control", action="append", default=[], metavar="WORD", help="that manager's command")
    verb("forget", "drop the history of an instance that is no more")
    _add_run(verb("run", "for supervisor and sessions: gate, server and end as one foreground process"))
    verb("hang-up", "for the unit around a session: when it ends")
    verb("renew", "for sessions: the rest of restart --no-wait")
    verb("gate", "for the unit: before each start")
    verb("wait-ready", "for the unit: until it answers, $MAINPID given")
    verb("stopping", "for the unit: ExecStop")
    verb("stopped", "for the unit: ExecStopPost")
    return parser


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--user", default="", help="as whom the server runs; who calls, when not given")
    parser.add_argument("--group", default="", help="the user's own, when not given")
    parser.add_argument("--limit", action="append", default=[], type=_limit, metavar="files=N|memlock=BYTES")
    parser.add_argument("--oom-score-adjust", type=int, metavar="N")
    parser.add_argument("--forever", action="store_true", help="start it again after each end")
    parser.add_argument("--delay", type=_seconds, default=10, help="seconds between two starts at least")
    parser.add_argument("--apart", action="store_true", help="keep what the terminal sends away from the server")
    parser.add_argument("--log", type=Path, help="write what it prints to this file too")
    parser.add_argument("--log-size", type=_count, default=50 << 20, help="bytes of one log file")
    parser.add_argument("--log-count", type=int, default=10, help="old log files that are kept")
    parser.add_argument("command", nargs="+", metavar="COMMAND", help="after --")


def _limit(text: str) -> tuple[str, int]:
    name, separator, value = text.partition("=")
    if name not in ("files", "memlock") or not separator:
        raise argparse.ArgumentTypeError(f"{text!r}: write files=N or memlock=BYTES")
    return name, int(value)


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _address(text: str) -> tuple[str, int]:
    host, _separator, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r}: write ADDRESS:PORT, such as 0.0.0.0:9410 or [::]:9410")
    return host.strip("[]"), int(port)


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 3600:
        raise argparse.ArgumentTypeError("must be between 0 and 3600 seconds")
    return value


def main(argv: Sequence[str] | None = None, runner: managers.Runner = managers.run) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        options = _parser().parse_args(words)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else exits.USAGE
        return exits.OK if "gate" in words else code
    log = Log(options.verb)
    try:
        return _run(options, log, runner)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return exits.OK
    except Exception as error:
        # The last line of defence of what must never fail: said, not hidden, and no traceback into a cron mail.
        return _failed(error, log, options.verb in HOOKS)


def _failed(error: Exception, log: Log, hook: bool) -> int:
    code = exits.INTERNAL
    if isinstance(error, config.ConfigError):
        code, text = exits.CONFIG, str(error)
    elif isinstance(error, (st.StateError, managers.ManagerError, running.RunError, accounts.AccountError)):
        text = str(error)
    else:
        text = f"a fault of the keeper itself: {type(error).__name__}: {error} (at {_place(error)})"
    log.error(f"{text}{'; the service goes on without its keeper' if hook else ''}")
    return exits.OK if hook else code


def _place(error: Exception) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace is not None else "?"


def _run(options: argparse.Namespace, log: Log, runner: managers.Runner) -> int:
    if options.verb in ("check", "status"):
        return _each(options, log, runner)
    if options.verb in ("retire", "forget"):
        return _leave(options, log, runner)
    if options.verb == "watch":
        return _watch(options, log, runner)

    def again() -> context.Context:
        return context.build(options.config_dir, options.state_dir, options.names[0], log, runner=runner)

    one = again()
    verbs: dict[str, Callable[[], int]] = {
        "gate": lambda: gate.gate(one),
        "wait-ready": lambda: ready.wait_ready(one, _pid(os.environ.get("MAINPID"))),
        "stopping": lambda: ending.stopping(one, os.environ),
        "stopped": lambda: ending.stopped(one, os.environ),
        "start": lambda: operate.start(one, not options.no_wait),
        "restart": lambda: operate.restart(one, not options.no_wait),
        "stop": lambda: operate.stop(one),
        "kill": lambda: operate.kill(one),
        "attach": lambda: operate.attach(one),
        "enable": lambda: operate.enable(one, True),
        "disable": lambda: operate.enable(one, False),
        "run": lambda: _run_server(options, one, again),
        "hang-up": lambda: operate.hang_up(one, os.environ),
        "renew": lambda: operate.renew(one),
        "drain": lambda: drain.drain(one, not options.no_wait, options.within, options.reason),
        "explain": lambda: _tell(explain.explain(one, options.count), explain.render, options),
        "gpus": lambda: _tell(gpus.gpus(one), gpus.render, options),
        "park": lambda: operate.park(one, options.reason),
        "resume": lambda: operate.resume(one, not options.no_start),
        "logs": lambda: operate.logs(one, options.lines, options.follow),
    }
    return verbs[options.verb]()


def _watch(options: argparse.Namespace, log: Log, runner: managers.Runner) -> int:
    # Not at the top: the hooks are on the way from a crash to the next process, where every import costs.
    from vllm_keeper.watch import daemon

    def make(name: str) -> context.Context:
        # A log of its own: each says whose it is, and hides that instance's secrets.
        return context.build(options.config_dir, options.state_dir, name, Log(options.verb), runner=runner)

    return daemon.Daemon(options.config_dir, make, log, options.listen, os.environ).run()


def _tell(facts: dict[str, Any], render: Callable[[dict[str, Any]], str], options: argparse.Namespace) -> int:
    print(json.dumps(facts, indent=1, sort_keys=True) if options.json else render(facts))
    return exits.OK


def _run_server(options: argparse.Namespace, one: context.Context, again: Callable[[], context.Context]) -> int:
    wanted = running.Wanted(
        command=options.command,
        account=accounts.find(options.user, options.group),
        limits=dict(options.limit),
        oom_score_adjust=options.oom_score_adjust,
        forever=options.forever,
        apart=options.apart,
        delay=options.delay,
        log=LogFile(options.log, options.log_size, options.log_count) if options.log else None,
    )
    return running.run(one, wanted, os.environ, again)


def _leave(options: argparse.Namespace, log: Log, runner: managers.Runner) -> int:
    """These also have to do with what is not configured any more."""
    name, known = options.names[0], True
    try:
        instance = config.load(options.config_dir, name)
    except config.ConfigError:
        if not config.NAME.match(name):
            raise
        instance, known = config.Instance(name=name, unit=f"{name}.service", base_url="http://127.0.0.1"), False
    if options.verb == "retire":
        instance = replace(instance, manager=options.manager, control=tuple(options.control))
    one = context.of(instance, options.state_dir, log, runner=runner)
    return operate.forget(one) if options.verb == "forget" else operate.retire(one, known)


def _each(options: argparse.Namespace, log: Log, runner: managers.Runner) -> int:
    """One bad configuration must not keep the others from being looked after."""
    codes = [exits.OK]
    found = []
    for name in options.names or config.names(options.config_dir):
        try:
            one = context.build(options.config_dir, options.state_dir, name, log, runner=runner)
        except config.ConfigError as error:
            log.instance = log.unit = ""
            if options.verb == "check":
                log.error(str(error))
            codes.append(exits.CONFIG)
            found.append(
                {
                    "name": name,
                    "verdict": "unknown",
                    "reason": str(error),
                    "next_action": "run site.yml",
                    "healthy": False,
                }
            )
            continue
        if options.verb == "check":
            codes.append(
                check.check(context.with_check(one, options.tries, options.delay, options.timeout), options.quiet)
            )
        else:
            facts = status.status(one)
            codes.append(exits.OK if facts["healthy"] else exits.BAD)
            found.append(facts)
    if options.verb == "status":
        if options.json:
            print(json.dumps({"version": 1, "instances": found}, indent=1, sort_keys=True))
        else:
            print("\n".join(status.render(facts) for facts in found) or f"no instance in {options.config_dir}")
    return max(codes)


def _pid(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() else None
