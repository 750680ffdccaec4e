# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How a task names target groups: names, ARNs, tags, a load balancer; and what to say when none fits.

Private to steadfast.vllm: it may change without notice. Pure: the calls to AWS stand in _elbv2.py.
"""

from __future__ import annotations

import difflib
import re
import typing as t

from ansible_collections.steadfast.vllm.plugins.module_utils._target_groups import some

# The options with which a task says which target groups it means; documented in doc_fragments/target_groups.py.
SELECTION_ARGUMENTS: dict[str, dict[str, t.Any]] = {
    "target_groups": {"type": "list", "elements": "str"},
    "load_balancer": {"type": "str"},
    "tags": {"type": "dict"},
}
SELECTION_RULES: dict[str, t.Any] = {
    "required_one_of": [["target_groups", "load_balancer", "tags"]],
    "mutually_exclusive": [["target_groups", "load_balancer", "tags"]],
}

_PREFIX = r"arn:aws[a-z-]*:elasticloadbalancing:(?P<region>[a-z0-9-]+):[0-9]{12}:"
GROUP_ARN = re.compile(_PREFIX + r"targetgroup/(?P<name>[A-Za-z0-9-]{1,32})/[0-9A-Za-z]+")
BALANCER_ARN = re.compile(_PREFIX + r"loadbalancer/(app|net|gwy)/(?P<name>[A-Za-z0-9-]{1,32})/[0-9A-Za-z]+")
NAME = re.compile(r"[A-Za-z0-9-]{1,32}")


class SelectionError(ValueError):
    """Nothing, or not all, of what a task names exists; one line for each reason."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))


class Wanted(t.NamedTuple):
    """One entry of `target_groups`."""

    place: str
    name: str
    arn: str | None


def parse_groups(entries: t.Sequence[str], region: str | None = None) -> list[Wanted]:
    """The names behind names and ARNs; the API takes only one kind a call, and an ARN holds the name."""
    if not entries:
        raise SelectionError(
            ["target_groups: the list is empty; give at least one name or ARN, or skip the task when there is none"]
        )
    wanted, problems = [], []
    for number, text in enumerate(entries):
        place = f"target_groups[{number}]"
        match = GROUP_ARN.fullmatch(text)
        if match and region and match["region"] != region:
            problems.append(
                f"{place}: {text!r} lies in region {match['region']}, but this task talks to {region}; "
                "set region to that of the target group"
            )
        elif match:
            wanted.append(Wanted(place, match["name"], text))
        elif text.startswith("arn:"):
            problems.append(
                f"{place}: {text!r} is not the ARN of a target group; it looks like "
                "arn:aws:elasticloadbalancing:<region>:<account>:targetgroup/<name>/<id>"
            )
        elif NAME.fullmatch(text):
            wanted.append(Wanted(place, text, None))
        else:
            problems.append(
                f"{place}: {text!r} cannot be the name of a target group; those are 1 to 32 letters, digits and "
                "hyphens long"
            )
    if problems:
        raise SelectionError(problems)
    return wanted


def pick(wanted: t.Sequence[Wanted], groups: t.Sequence[t.Mapping[str, t.Any]], region: str | None) -> list[str]:
    """The ARNs of the groups wanted, each once and in the order given; `groups` is all that could be found."""
    arns = {group["TargetGroupName"]: group["TargetGroupArn"] for group in groups}
    problems, picked = [], []
    for entry in wanted:
        found = arns.get(entry.name)
        if found is None:
            problems.append(
                f"{entry.place}: no target group is named {entry.name!r}{_where(region)}; "
                f"{_near(entry.name, sorted(arns), 'target groups')}"
            )
        elif entry.arn not in (None, found):
            problems.append(
                f"{entry.place}: {entry.arn!r} does not exist, but a target group of that name does: {found}; "
                "was it made anew? Give its name or the new ARN"
            )
        else:
            picked.append(found)
    if problems:
        raise SelectionError(problems)
    return list(dict.fromkeys(picked))


def check_balancer(text: str, region: str | None = None) -> bool:
    """True for a load balancer's ARN, False for a name; SelectionError for what can be neither."""
    match = BALANCER_ARN.fullmatch(text)
    if match and region and match["region"] != region:
        raise SelectionError(
            [
                f"load_balancer: {text!r} lies in region {match['region']}, but this task talks to {region}; "
                "set region to that of the load balancer"
            ]
        )
    if match:
        return True
    if NAME.fullmatch(text):
        return False
    raise SelectionError(
        [
            f"load_balancer: {text!r} is neither a name (1 to 32 letters, digits and hyphens) nor the ARN of an "
            "Application, Network or Gateway Load Balancer (a Classic Load Balancer has no target groups)"
        ]
    )


def no_balancer(text: str, names: t.Iterable[str], region: str | None) -> SelectionError:
    match = BALANCER_ARN.fullmatch(text)
    return SelectionError(
        [
            f"load_balancer: {text!r} does not exist{_where(region)}; "
            f"{_near(match['name'] if match else text, sorted(names), 'load balancers')}"
        ]
    )


def no_group_behind(text: str) -> SelectionError:
    return SelectionError(
        [
            f"load_balancer: {text!r} has no target group: none of its listeners and rules forwards to one; "
            "add a listener, or name the target groups in target_groups"
        ]
    )


def check_tags(tags: t.Mapping[str, t.Any]) -> dict[str, str]:
    """The tags wanted, as text."""
    if not tags:
        raise SelectionError(
            ["tags: the dictionary is empty, which would mean every target group; give at least one tag"]
        )
    return {str(key): _tag_text(value) for key, value in tags.items()}


def with_tags(wanted: t.Mapping[str, str], tags_of: t.Mapping[str, t.Mapping[str, str]]) -> list[str]:
    """The ARNs that carry all the tags wanted; `tags_of` is every group's tags by its ARN."""
    found = [arn for arn, tags in tags_of.items() if all(tags.get(key) == value for key, value in wanted.items())]
    if found:
        return found
    asked = ", ".join(f"{key}={value}" for key, value in wanted.items())
    if not tags_of:
        raise SelectionError([f"tags: {asked} match none, for there are no target groups; {_ELSEWHERE}"])
    lines = [f"tags: {asked} match none of {len(tags_of)} target groups"]
    for key, value in wanted.items():
        values = sorted({tags[key] for tags in tags_of.values() if key in tags})
        if not values:
            keys = sorted({known for tags in tags_of.values() for known in tags})
            lines.append(f"tags.{key}: no target group has this tag; {_near(key, keys, 'tags')}")
        elif value not in values:
            lines.append(f"tags.{key}: no target group has the value {value!r}; {_near(value, values, 'values')}")
    if len(lines) == 1:
        lines.append("tags: each occurs, but no target group has all of them; give fewer")
    raise SelectionError(lines)


_ELSEWHERE = "is this the right region and account?"


def _near(text: str, known: t.Sequence[str], kind: str) -> str:
    close = difflib.get_close_matches(text, known, n=3)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"the {kind} are {some(known)}" if known else f"there are no {kind} at all: {_ELSEWHERE}"


def _where(region: str | None) -> str:
    return f" in {region}" if region else ""


def _tag_text(value: object) -> str:
    # YAML's true is written "true" by those who tag with it, not Python's "True".
    return str(value).lower() if isinstance(value, bool) else str(value)
