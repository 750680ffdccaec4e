# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The health check dictionary that HAProxy and the ALB share: its defaults and its rules.

Private to steadfast.vllm: it may change without notice. Pure, standard library only.

The limits are those of ELBv2, read in its API reference:
https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_ModifyTargetGroup.html
https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_Matcher.html
HAProxy has none narrower, so what passes here suits both.
"""

from __future__ import annotations

import difflib
import re
import typing as t

# The source guide's values. They are the default of the variable `vllm_health_check`, never of a module:
# a module changes only the keys that it is given.
GUIDE_DEFAULTS: dict[str, t.Any] = {
    "path": "/health",
    "port": "traffic-port",
    "protocol": "HTTP",
    "interval": 30,
    "timeout": 5,
    "healthy_threshold": 5,
    "unhealthy_threshold": 2,
    "matcher": "200",
}

# `enabled` exists for Lambda groups alone, so it is a key, but no default of the guide.
KEYS = (*GUIDE_DEFAULTS, "enabled")

# TLS, UDP, TCP_UDP, GENEVE and QUIC carry traffic, but ELBv2 refuses them for health checks.
CHECK_PROTOCOLS = ("HTTP", "HTTPS", "TCP")
ALB_PROTOCOLS = ("HTTP", "HTTPS")

# key: (least, most, what it counts)
NUMBERS = {
    "interval": (5, 300, "seconds"),
    "timeout": (2, 120, "seconds"),
    "healthy_threshold": (2, 10, "checks in a row"),
    "unhealthy_threshold": (2, 10, "checks in a row"),
}
LONGEST_PATH = 1024
HIGHEST_GRPC_CODE = 99


class HealthCheckError(ValueError):
    """Settings that cannot be used; `problems` holds one line for each reason."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def whole_number(value: object) -> int | None:
    """`value` as an integer, also from its decimal text (as `-e` gives it), else None."""
    # bool is an int to Python; `interval: true` is a mistake to everybody else.
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, str) and re.fullmatch(r"\s*-?[0-9]{1,9}\s*", value):
        return int(value)
    return None


def codes(matcher: object) -> frozenset[int] | None:
    """The status codes that a matcher names ("200", "200,202", "200-299"), None if it is not one."""
    text = str(matcher) if isinstance(matcher, (int, str)) and not isinstance(matcher, bool) else ""
    found: set[int] = set()
    for part in text.replace(" ", "").split(","):
        match = re.fullmatch(r"([0-9]{1,3})(?:-([0-9]{1,3}))?", part)
        if not match:
            return None
        first = int(match.group(1))
        last = int(match.group(2) or first)
        if last < first:
            return None
        found.update(range(first, last + 1))
    return frozenset(found)


def code_range(
    target_group_protocol: str | None = None, target_type: str | None = None, protocol_version: str | None = None
) -> tuple[int, int, str]:
    """Least and most status code that a matcher may name, and for what kind of target group."""
    if protocol_version == "GRPC":
        return 0, HIGHEST_GRPC_CODE, "a gRPC target group"
    if target_type == "lambda" or target_group_protocol in ALB_PROTOCOLS:
        return 200, 499, "a target group of an Application Load Balancer"
    if target_group_protocol == "GENEVE":
        return 200, 399, "a target group of a Gateway Load Balancer"
    # Also where the kind of group is not known yet: the widest range that any HTTP check may have.
    return 200, 599, "a target group of a Network Load Balancer" if target_group_protocol else "any target group"


def problems(
    settings: object,
    place: str,
    target_group_protocol: str | None = None,
    target_type: str | None = None,
    protocol_version: str | None = None,
) -> list[str]:
    """All that is wrong with the settings given (keys left out or None are fine), each with its place and mend.

    With the protocol, target type and protocol version of a target group, also what that group cannot have.
    """
    if not isinstance(settings, t.Mapping):
        return [f"{place}: {settings!r} is not a dictionary; give keys and values, as in {{path: /health}}"]
    given = {key: value for key, value in settings.items() if value is not None}
    found = [_unknown_key(key, place) for key in given if key not in KEYS]
    if "enabled" in given:
        found += _enabled_problems(given["enabled"], f"{place}.enabled", target_type)
    if "protocol" in given:
        found += _protocol_problems(given["protocol"], f"{place}.protocol", target_group_protocol, target_type)
    if "port" in given:
        found += _port_problems(given["port"], f"{place}.port", target_type)
    if "path" in given:
        found += _path_problems(given["path"], f"{place}.path", protocol_version)
    if "matcher" in given:
        found += _matcher_problems(
            given["matcher"], f"{place}.matcher", code_range(target_group_protocol, target_type, protocol_version)
        )
    for key in NUMBERS:
        if key in given:
            found += _number_problems(key, given[key], f"{place}.{key}")
    return found + _pair_problems(given, place)


def complete(settings: object = None, place: str = "health_check") -> dict[str, t.Any]:
    """The guide's values with those given laid over them, in one spelling; HealthCheckError names all problems."""
    given = {} if settings is None else settings
    found = problems(given, place)
    if not isinstance(given, t.Mapping):
        raise HealthCheckError(found)
    whole = {**GUIDE_DEFAULTS, **{key: value for key, value in given.items() if value is not None}}
    if whole["protocol"] == "TCP":
        # A TCP check only opens a connection: the guide's path and matcher have nothing to say then.
        for key in ("path", "matcher"):
            if given.get(key) is None:
                whole[key] = None
    found += [line for line in problems(whole, place) if line not in found]
    if found:
        raise HealthCheckError(found)
    return normalised(whole)


def normalised(settings: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Valid settings in one spelling: numbers as integers, port and matcher as text without spaces."""
    result = dict(settings)
    for key in NUMBERS:
        if result.get(key) is not None:
            result[key] = whole_number(result[key])
    for key in ("port", "matcher"):
        if result.get(key) is not None:
            result[key] = str(result[key]).replace(" ", "")
    port = whole_number(result.get("port"))
    if port is not None:
        result["port"] = str(port)
    return result


def _unknown_key(key: object, place: str) -> str:
    near = difflib.get_close_matches(str(key), KEYS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"the keys are {', '.join(KEYS)}"
    return f"{place}.{key}: unknown key, {hint}"


def _enabled_problems(value: object, place: str, target_type: str | None) -> list[str]:
    if not isinstance(value, bool):
        return [f"{place}: {value!r} is not true or false; give true, or leave it out"]
    if not value and target_type not in (None, "lambda"):
        return [
            f"{place}: false, but only a Lambda target group may go unchecked, and this one's targets are of type "
            f"{target_type}; leave it out"
        ]
    return []


def _protocol_problems(
    value: object, place: str, target_group_protocol: str | None, target_type: str | None
) -> list[str]:
    if value not in CHECK_PROTOCOLS:
        return [
            f"{place}: {value!r} is no protocol for a health check, whatever the traffic's is; "
            f"give one of {', '.join(CHECK_PROTOCOLS)}"
        ]
    if target_type == "lambda":
        return [f"{place}: {value!r}, but a Lambda function is invoked, not connected to; leave it out"]
    if value == "TCP" and target_group_protocol in ALB_PROTOCOLS:
        return [
            f"{place}: 'TCP', but a target group with protocol {target_group_protocol} is checked by HTTP or HTTPS "
            "only; give HTTP with path /health"
        ]
    if value == "TCP" and target_type == "alb":
        return [f"{place}: 'TCP', but a target that is itself an ALB is checked by HTTP or HTTPS only; give HTTP"]
    return []


def _port_problems(value: object, place: str, target_type: str | None) -> list[str]:
    if target_type == "lambda":
        return [f"{place}: {value!r}, but a Lambda function has no port; leave it out"]
    number = whole_number(value)
    if value == "traffic-port" or (number is not None and 1 <= number <= 65535):
        return []
    return [f"{place}: {value!r} is not a port; give traffic-port (the port that serves) or a number from 1 to 65535"]


def _path_problems(value: object, place: str, protocol_version: str | None) -> list[str]:
    if not isinstance(value, str):
        return [f"{place}: {value!r} is not text; give a path such as /health"]
    found = []
    if not value.startswith("/"):
        found.append(f"{place}: {value!r} does not start with /; give a path such as /health")
    if len(value) > LONGEST_PATH:
        found.append(f"{place}: {len(value)} characters long, at most {LONGEST_PATH} are allowed; give a shorter path")
    if re.search(r"[^!-~]", value):
        found.append(f"{place}: {value!r} holds a space or a character outside ASCII; write it as %XX")
    if protocol_version == "GRPC" and not re.fullmatch(r"/[^/]+/[^/]+", value) and not found:
        found.append(
            f"{place}: {value!r} is no gRPC method, and the target group speaks gRPC; give /package.Service/Method, "
            "such as /grpc.health.v1.Health/Check"
        )
    return found


def _matcher_problems(value: object, place: str, limits: tuple[int, int, str]) -> list[str]:
    named = codes(value)
    if named is None:
        return [
            f'{place}: {value!r} is no list of status codes; give one ("200"), several ("200,202") or a range '
            '("200-299")'
        ]
    least, most, kind = limits
    outside = sorted(code for code in named if not least <= code <= most)
    if outside:
        return [
            f"{place}: {value!r} holds {outside[0]}, but {kind} takes {least} to {most}; "
            f"give {'0' if most == HIGHEST_GRPC_CODE else '200'}"
        ]
    return []


def _number_problems(key: str, value: object, place: str) -> list[str]:
    least, most, unit = NUMBERS[key]
    number = whole_number(value)
    if number is None:
        return [f"{place}: {value!r} is not a whole number; give {least} to {most} {unit}"]
    if not least <= number <= most:
        return [
            f"{place}: {number} is out of range; give {least} to {most} {unit} (the guide's is {GUIDE_DEFAULTS[key]})"
        ]
    return []


def _pair_problems(given: t.Mapping[str, t.Any], place: str) -> list[str]:
    """What is wrong only when two keys are seen together."""
    found = []
    interval, timeout = whole_number(given.get("interval")), whole_number(given.get("timeout"))
    if interval is not None and timeout is not None and timeout >= interval:
        found.append(
            f"{place}.timeout: {timeout} is not below {place}.interval {interval}, so a check would still run when the "
            f"next begins; give a timeout below {interval}, or a longer interval"
        )
    if given.get("protocol") == "TCP":
        found += [
            f"{place}.{key}: {given[key]!r}, but a TCP check only opens a connection and sends nothing; leave it out, "
            f"or give protocol: HTTP"
            for key in ("path", "matcher")
            if key in given
        ]
    return found
