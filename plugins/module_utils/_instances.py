# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From the inventory's `vllm_instances` to complete instances, or to everything that is wrong with them.

Private to this collection. Pure, standard library only. What an instance's keys may hold stands in FIELDS; what is
derived from them in _derive.py. No renderer derives anything by itself.
"""

from __future__ import annotations

import typing as t
from collections.abc import Mapping

from ansible_collections.steadfast.vllm.plugins.module_utils import _clashes, _derive, _serve_options
from ansible_collections.steadfast.vllm.plugins.module_utils._fields import FIELDS, MAPS, REQUIRED
from ansible_collections.steadfast.vllm.plugins.module_utils._serve_options import ServeOptions
from ansible_collections.steadfast.vllm.plugins.module_utils._values import (
    InputError,
    Undefined,
    Wrong,
    defined,
    kind,
    meant,
    path_of,
    plain,
    show,
    unknown,
)

__all__ = ["DEFAULT_INSTANCE", "DEFAULT_MODEL_ROOT", "InputError", "Undefined", "normalise"]

PLACE = "vllm_instances"
DEFAULTS_PLACE = "vllm_instance_defaults"
DEFAULT_MODEL_ROOT = "/var/lib/vllm/models"
# The source guide's service.
DEFAULT_INSTANCE: dict[str, t.Any] = {"name": "qwen3vl", "model": "Qwen/Qwen3-VL-8B-Instruct"}


def normalise(
    instances: object = None,
    defaults: object = None,
    model_root: object = DEFAULT_MODEL_ROOT,
    serve_options: object = None,
) -> list[dict[str, t.Any]]:
    """Complete instances in the order given; raises InputError with all problems at once.

    `serve_options` are those of the vLLM that will be installed (_serve_options.py), None where they are not known.
    None for `instances` is the guide's one instance, an empty list is none. A key that is null is as if not given.
    """
    problems: list[str] = []
    shared_wrong: set[str] = set()
    shared = {} if defaults is None else _read(plain(defaults), DEFAULTS_PLACE, problems, shared_wrong)
    root = _model_root(plain(model_root), problems)
    given = [DEFAULT_INSTANCE] if instances is None else plain(instances)
    if not isinstance(given, list):
        why = given.why if isinstance(given, Undefined) else kind(given)
        problems.append(f"{PLACE}: {why}, not a list: write a list of dictionaries, each with name and model")
        raise InputError(problems)

    read: list[tuple[str, dict[str, t.Any]]] = []
    for number, entry in enumerate(given):
        place = f"{PLACE}[{number}]"
        wrong: set[str] = set()
        complete = _complete(_read(entry, place, problems, wrong), shared)
        problems.extend(
            f"{place}.{key}: missing: {fix}"
            for key, fix in REQUIRED.items()
            if complete[key] is None and key not in wrong | shared_wrong
        )
        # A default in the place of a wrong value would clash with others for no reason of its own.
        for key in (wrong | shared_wrong) - set(MAPS):
            complete[key] = None
        if {"gpus", "gpu_memory_utilization"} & (wrong | shared_wrong):
            complete["gpus"] = []
        read.append((place, complete))

    known = _serve_options.read(plain(serve_options))
    for place, instance in read:
        problems.extend(_clashes.within(place, instance))
        if known is not None:
            problems.extend(_unknown_to_vllm(place, instance["extra_args"], shared.get("extra_args") or {}, known))
    problems.extend(_clashes.between(read))
    if problems:
        raise InputError(list(dict.fromkeys(problems)))
    return [_derive.derive(instance, root) for _place, instance in read]


def _read(entry: object, place: str, problems: list[str], wrong: set[str]) -> dict[str, t.Any]:
    """The keys that `entry` gives, each read by its own reader; reasons go to `problems`, keys to `wrong`."""
    if not isinstance(entry, Mapping):
        # Only its kind: a string here may well be a secret that slipped out of its key.
        why = f"undefined ({entry.why})" if isinstance(entry, Undefined) else kind(entry)
        problems.append(f"{place}: {why}, not a dictionary: write keys and values, such as port: 8000")
        wrong.update(FIELDS)
        return {}
    values: dict[str, t.Any] = {}
    for key, value in entry.items():
        if key not in FIELDS:
            problems.append(f"{path_of(place, key)}: {unknown(key, FIELDS)}")
            wrong.update(meant(key, FIELDS))
        elif place == DEFAULTS_PLACE and key == "name":
            problems.append(f"{place}.name: a name belongs to one instance: write it in {PLACE}")
        elif value is None:
            values[key] = None
        elif key in MAPS:
            values[key] = _read_map(key, value, f"{place}.{key}", problems)
        else:
            try:
                values[key] = FIELDS[key].read(value)
            except Wrong as reason:
                wrong.add(key)
                problems.append(f"{place}.{key}: {reason}")
    return values


def _read_map(key: str, value: object, place: str, problems: list[str]) -> dict[str, t.Any]:
    """A dictionary inside an instance: its keys and values, null for one that takes a default back."""
    rules = MAPS[key]
    try:
        value = defined(value)
    except Wrong as wrong:
        problems.append(f"{place}: {wrong}")
        return {}
    if not isinstance(value, Mapping):
        problems.append(f"{place}: {kind(value)}, not a dictionary: write {rules.example}")
        return {}
    values: dict[str, t.Any] = {}
    came_from: dict[str, object] = {}
    for given, item in value.items():
        here = path_of(place, given)
        try:
            name = rules.name(given)
            if name in values:
                raise Wrong(f"says the same as {came_from[name]}: keep one of them")
            came_from[name] = given
            values[name] = None
            if item is not None:
                values[name] = rules.read(name, item)
        except Wrong as wrong:
            problems.append(f"{here}: {wrong}")
    return values


def _complete(values: Mapping[str, t.Any], shared: Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Given over shared over default; dictionaries key by key, where null takes a shared key back."""
    complete: dict[str, t.Any] = {}
    for key, field in FIELDS.items():
        if key in MAPS:
            own = values.get(key, {})
            merged = {**field.default, **(shared.get(key) or {}), **(own or {})} if own is not None else field.default
            complete[key] = {
                name: field.default.get(name) if item is None else item
                for name, item in merged.items()
                if item is not None or name in field.default
            }
            continue
        value = values[key] if key in values else shared.get(key)
        complete[key] = field.default if value is None else value
    return complete


def _unknown_to_vllm(
    place: str, arguments: Mapping[str, t.Any], shared: Mapping[str, t.Any], known: ServeOptions
) -> t.Iterator[str]:
    for name, why in _serve_options.problems(arguments, known):
        here = DEFAULTS_PLACE if name in shared and shared[name] == arguments[name] else place
        yield f"{path_of(f'{here}.extra_args', name)}: {why}"


def _model_root(value: object, problems: list[str]) -> str:
    if isinstance(value, str) and value.startswith("/") and "\0" not in value and ".." not in value.split("/"):
        return value.rstrip("/") or "/"
    problems.append(f"vllm_model_root: {show(value)} is not an absolute path: write one, such as {DEFAULT_MODEL_ROOT}")
    return DEFAULT_MODEL_ROOT
