# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What ELBv2's reason codes mean for a vLLM server, and what to do about each.

Private to steadfast.vllm: it may change without notice. Pure: no call is made here.

Reason codes, and what AWS says of them:
https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_TargetHealth.html
https://docs.aws.amazon.com/elasticloadbalancing/latest/application/check-target-health.html
https://docs.aws.amazon.com/elasticloadbalancing/latest/application/load-balancer-troubleshooting.html
https://docs.aws.amazon.com/elasticloadbalancing/latest/network/load-balancer-troubleshooting.html
What vLLM answers where, and when: seen on vLLM 0.32 (its /health: vllm/entrypoints/serve/instrumentator/health.py in
https://github.com/vllm-project/vllm).
"""

from __future__ import annotations

import re
import typing as t

from ansible_collections.steadfast.vllm.plugins.module_utils._target_groups import Group

Row = dict[str, t.Any]

# reason: (meaning, fix). The braces are filled from the target group's health check.
REASONS: dict[str, tuple[str, str]] = {
    # --- state initial
    "Elb.RegistrationInProgress": (
        "the target is being registered with the load balancer",
        "wait: a new target needs one passed check, at most one interval ({interval} s) away",
    ),
    "Elb.InitialHealthChecking": (
        "the load balancer has not yet made the checks that it needs for a verdict",
        "wait one interval ({interval} s); vLLM may take minutes to load a model before it answers at all",
    ),
    # --- state unhealthy. A mismatch has a table of its own below, by the code answered.
    "Target.ResponseCodeMismatch": (
        "the target answers {path} on port {check_port}, but with a code outside {matcher}",
        "run `curl -i http://TARGET:{curl_port}{path}` from the load balancer's subnet; vLLM wants path /health and "
        'matcher "200"',
    ),
    "Target.Timeout": (
        "no answer on port {check_port} within {timeout} s: packets are dropped on the way, or vLLM's API process "
        "hangs (a hung engine alone does not show here: /health stays 200)",
        "let the load balancer's security group into port {curl_port} of the target's, check network ACLs and routes; "
        "if `curl -m 5 http://127.0.0.1:{curl_port}{path}` on the host hangs too, kill the server so that its manager "
        "starts it anew",
    ),
    "Target.FailedHealthChecks": (
        "the connection to port {check_port} was refused or closed, or the answer was malformed: vLLM is down, still "
        "loading its model, listens on another port or on 127.0.0.1 only, or one side speaks TLS and the other not",
        "look at `systemctl status` and `journalctl -u` of the instance; compare its host (0.0.0.0) and port with "
        "{check_port}, and the check's protocol {protocol} with what it serves",
    ),
    "Elb.InternalError": (
        "the check failed inside the load balancer, not at the target",
        "wait some minutes, then look at the AWS Health Dashboard",
    ),
    # --- state unused
    "Target.NotRegistered": (
        "the target is not registered with this target group",
        "register it, or let its Auto Scaling group do so (TargetGroupARNs)",
    ),
    "Target.NotInUse": (
        "no listener or rule forwards to this target group, or the target's Availability Zone is not enabled for the "
        "load balancer: nobody checks it and nobody is sent to it",
        "forward a listener to the target group, or enable the target's zone on the load balancer",
    ),
    "Target.InvalidState": (
        "the instance is stopped or terminated",
        "start it, or let its Auto Scaling group replace it",
    ),
    "Target.IpUnusable": (
        "the target's address is one that a load balancer uses itself",
        "register the address of the vLLM host",
    ),
    # --- state draining
    "Target.DeregistrationInProgress": (
        "the target is being taken out: it finishes the requests that it has and gets no new ones",
        "wait for the deregistration delay to pass; register it again if it was not meant to go",
    ),
    # --- state unavailable
    "Target.HealthCheckDisabled": (
        "health checks are switched off for this target group",
        "set health_check.enabled: true",
    ),
}

# state: (meaning, fix) where AWS gives no reason.
STATES: dict[str, tuple[str, str]] = {
    "healthy": ("the target passes its checks", ""),
    "initial": REASONS["Elb.InitialHealthChecking"],
    "unhealthy": (
        "the target fails its checks; AWS gives no reason",
        "run `curl -i http://TARGET:{curl_port}{path}` from the load balancer's subnet",
    ),
    "unhealthy.draining": (
        "the target fails its checks and is given the drain interval to finish the connections that it has",
        "mend the target as its reason says; a connection that is still open is cut when the interval has passed",
    ),
    "unused": REASONS["Target.NotInUse"],
    "draining": REASONS["Target.DeregistrationInProgress"],
    "unavailable": REASONS["Target.HealthCheckDisabled"],
}

_UNKNOWN = ("AWS gives a reason that this version does not know", "look it up in the ELBv2 API reference, TargetHealth")

# What vLLM means by a code that is not the one expected; 404 on / is by far the most common.
_GUARDED = (
    "the server wants a key for {path} (vLLM's --api-key guards /v1), which a load balancer cannot send",
    "set health_check.path: /health, which vLLM leaves open",
)
_MOVED = (
    "the server redirects {path}: vLLM never does, so a proxy stands before it, or another program has the port",
    "check what listens on port {check_port}; set path: /health and, if the proxy wants TLS, protocol: HTTPS",
)
_PROXY = (
    "a proxy answers for a server that it cannot reach: vLLM itself never answers so",
    "point the target at vLLM's own port, or look at the proxy's upstream and at `journalctl -u` of the instance",
)
CODES: dict[int, tuple[str, str]] = {
    200: (
        "vLLM answers 200 as it should, but the matcher wants {matcher}",
        'set health_check.matcher: "200"',
    ),
    301: _MOVED,
    302: _MOVED,
    307: _MOVED,
    308: _MOVED,
    400: (
        "the server calls the check a bad request: often HTTP sent to a port that speaks TLS",
        "make the check's protocol ({protocol}) agree with what the server speaks",
    ),
    401: _GUARDED,
    403: _GUARDED,
    404: (
        "the server has no page {path}; another program may have port {check_port}",
        "set health_check.path: /health and check that the port is vLLM's",
    ),
    405: (
        "{path} exists but takes no GET, as vLLM's completion endpoints do",
        "set health_check.path: /health",
    ),
    500: (
        "the server failed on the request: vLLM answers so when its engine is failing",
        "look at `journalctl -u` of the instance; set health_check.path: /health if it is another",
    ),
    502: _PROXY,
    503: (
        "vLLM's API still answers, but its engine is dead",
        "look at `journalctl -u` of the instance for the engine's last words; its manager restarts it, and "
        "`vllm-keeper status` says if it is parked",
    ),
    504: _PROXY,
}
_ROOT = (
    "vLLM answers 404 on /: it has no page there, so a healthy server looks broken",
    "set health_check.path: /health, which is 200 as soon as vLLM serves",
)


def explain(group: Group, state: str, reason: str | None, description: str | None) -> tuple[str, str]:
    """What a target's state means and what to do; the second is empty where nothing is to be done."""
    check = group["health_check"]
    path = check["path"] or "/"
    port = check["port"] or "traffic-port"
    meaning, fix = _text(state, reason, description, path)
    words = {
        "path": path,
        "matcher": check["matcher"] or "200",
        "protocol": check["protocol"] or "HTTP",
        "timeout": check["timeout"],
        "interval": check["interval"],
        "check_port": port,
        # What one can type; each target may have its own traffic port, and its row says which.
        "curl_port": group["port"] if port == "traffic-port" else port,
    }
    return meaning.format(**words), fix.format(**words)


def row(group: Group, described: t.Mapping[str, t.Any]) -> Row:
    """One target as our modules return it, from an entry of DescribeTargetHealth."""
    target, health = described["Target"], described["TargetHealth"]
    state, reason, description = health["State"], health.get("Reason") or None, health.get("Description") or None
    meaning, fix = explain(group, state, reason, description)
    return {
        "id": target["Id"],
        "port": target.get("Port"),
        "az": target.get("AvailabilityZone"),
        "health_check_port": described.get("HealthCheckPort"),
        "state": state,
        "reason": reason,
        "description": description,
        "meaning": meaning,
        "fix": fix,
        "anomaly": (described.get("AnomalyDetection") or {}).get("Result"),
        "administrative_override": (described.get("AdministrativeOverride") or {}).get("State"),
    }


def line(entry: Row) -> str:
    """`id:port state reason meaning fix`, for a list that a person reads."""
    place = f"[{entry['id']}]" if ":" in entry["id"] and not entry["id"].startswith("arn:") else entry["id"]
    if entry["port"] is not None:
        place = f"{place}:{entry['port']}"
    reason = entry["reason"] or "-"
    fix = f" -> {entry['fix']}" if entry["fix"] else ""
    return f"{place} {entry['state']} {reason} {entry['meaning']}{fix}"


def parse_wait_for(value: str) -> int | None:
    """None for `all`, else how many targets of each group are to be healthy; ValueError says what is wrong."""
    if value == "all":
        return None
    if re.fullmatch(r"[0-9]{1,4}", value) and int(value) > 0:
        return int(value)
    raise ValueError(f"wait_for: {value!r} is neither all nor a number of targets from 1 on")


def satisfied(rows: t.Sequence[Row], wanted: int | None) -> bool:
    """Whether a group has the healthy targets wanted (None: all of them, and at least one)."""
    healthy = len([entry for entry in rows if entry["state"] == "healthy"])
    if wanted is not None:
        return healthy >= wanted
    # A target on its way out will never be healthy again, and need not be.
    staying = [entry for entry in rows if entry["state"] != "draining"]
    return bool(staying) and healthy == len(staying)


def report(waiting: t.Mapping[str, t.Sequence[Row]], wanted: int | None, seconds: float) -> str:
    """Why a wait ended in vain: each group's count, and a line for each target that is not healthy."""
    lines = []
    for name, rows in waiting.items():
        healthy = sum(entry["state"] == "healthy" for entry in rows)
        lines.append(
            f"after {seconds:.0f} s, {healthy} of {len(rows)} targets of target group {name} are healthy, wanted "
            f"{'all' if wanted is None else wanted}:"
        )
        lines += [f"  {line(entry)}" for entry in rows if entry["state"] != "healthy"]
        if not rows:
            lines.append("  no target is registered; register the vLLM hosts, or let an Auto Scaling group do so")
        elif healthy == 0:
            lines.append("  none is healthy, so the load balancer sends requests to all of them (it fails open)")
        elif len(rows) == healthy:
            lines.append("  all that are registered are healthy; register more, or lower wait_for")
    return "\n".join(lines)


def wait_until(
    ready: t.Callable[[], bool],
    timeout: float,
    clock: t.Callable[[], float],
    sleep: t.Callable[[float], None],
    settle: float = 0,
) -> bool:
    """Ask `ready` after `settle` seconds, then ever less often, the last time when `timeout` is over."""
    start = clock()
    pause = 1.0
    if settle > 0:
        sleep(min(settle, timeout))
    while True:
        if ready():
            return True
        left = timeout - (clock() - start)
        if left <= 0:
            return False
        sleep(min(pause, left))
        # 15 s at most: half the usual interval, so a verdict is never seen much later than it falls.
        pause = min(pause * 1.5, 15.0)


def _text(state: str, reason: str | None, description: str | None, path: str) -> tuple[str, str]:
    if reason is None:
        return STATES.get(state, _UNKNOWN)
    if reason == "Target.ResponseCodeMismatch":
        for code in _codes(description):
            if code == 404 and path == "/":
                return _ROOT
            if code in CODES:
                return CODES[code]
    return REASONS.get(reason, _UNKNOWN)


def _codes(description: str | None) -> list[int]:
    """The codes in "Health checks failed with these codes: [404]"."""
    match = re.search(r"\[([0-9, ]+)\]", description or "")
    return [int(code) for code in re.findall(r"[0-9]+", match[1])] if match else []
