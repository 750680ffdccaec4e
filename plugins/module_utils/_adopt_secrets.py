# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What of a running server may be shown (private to this collection). Pure, standard library only.

A value is shown only where its name is known to be harmless and the value itself does not look like a secret.
"""

from __future__ import annotations

import json
import re
import typing as t
from collections.abc import Mapping, Sequence

BLANK = "****"
SECRET_WORDS = frozenset(
    "key keys apikey token secret secrets password passwd passphrase pass pwd credential credentials auth "
    "authorization cookie session signature sas dsn pat bearer".split()
)
# These hold such a word and are no secret.
PLAIN_OPTIONS = frozenset(
    ("return-tokens-as-token-ids", "ssl-keyfile", "enable-prompt-tokens-details", "tokens-only", "max-logprobs")
)
# What tokens of well-known services look like, wherever they stand.
SECRET_VALUE = re.compile(
    r"\b(hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|xox[abp]-[\w-]{10,}|"
    r"AKIA[0-9A-Z]{16}|ASIA[0-9A-Z]{16}|glpat-[\w-]{16,}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]*|AIza[\w-]{30,})"
)
USER_INFO = re.compile(r"(?<=://)[^/\s@]+@")
# Variables that shape what vLLM does, by the start of their name: they are carried over.
FAMILIES = (
    "VLLM_", "TORCH", "PYTORCH_", "NCCL_", "OMP_", "MKL_", "KMP_", "OPENBLAS_", "CUDA_", "NVIDIA_", "TRITON_",
    "FLASHINFER_", "TRANSFORMERS_", "TOKENIZERS_", "HF_", "HUGGING", "GLOO_", "UCX_", "LMCACHE_", "CUBLAS_", "CUDNN_",
    "OTEL_", "DG_", "SAFETENSORS_", "RAYON_", "MALLOC_", "TIKTOKEN_", "OUTLINES_", "XGRAMMAR_", "DEEP_GEMM_", "S3_",
    "RUNAI_", "PROMETHEUS_", "TQDM_",
)  # fmt: skip
SINGLE = ("DO_NOT_TRACK", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "https_proxy", "http_proxy", "no_proxy", "TZ")
# Shown for orientation, never carried over.
SHOWN = (
    "LANG",
    "LC_ALL",
    "VIRTUAL_ENV",
    "CONDA_PREFIX",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "PYTHONPATH",
    "XDG_CACHE_HOME",
)


def words(name: str) -> set[str]:
    return {word for word in re.split(r"[^A-Za-z0-9]+", name.lower()) if word}


def secret_name(name: str) -> bool:
    """Whether what stands under a name may be a secret, judged by the name."""
    dashed = name.lower().replace("_", "-").lstrip("-")
    if dashed in PLAIN_OPTIONS:
        return False
    if dashed in ("pwd", "oldpwd"):  # the shell's folder
        return False
    parts = words(name)
    return bool(parts & SECRET_WORDS) or any(part.endswith(("apikey", "password", "secret")) for part in parts)


def secret_value(value: str) -> bool:
    return bool(SECRET_VALUE.search(value) or USER_INFO.search(value))


def blank_text(text: str) -> str:
    """A text without what looks like a secret in it."""
    return USER_INFO.sub(f"{BLANK}@", SECRET_VALUE.sub(BLANK, text))


def holds_secret(value: t.Any) -> bool:
    """Whether a value, taken apart, has something secret in it."""
    if isinstance(value, Mapping):
        return any((secret_name(str(key)) and item not in (None, "", False)) or holds_secret(item)
                   for key, item in value.items())  # fmt: skip
    if isinstance(value, (list, tuple)):
        return any(map(holds_secret, value))
    return isinstance(value, str) and secret_value(value)


def blank_argv(argv: Sequence[str]) -> list[str]:
    """A command line as it may be shown."""
    shown: list[str] = []
    secret = False
    for word in argv:
        if re.match(r"--?[A-Za-z]", word):
            name, equals, value = word.partition("=")
            secret = secret_name(name)
            if equals and secret:
                shown.append(f"{name}={BLANK}")
            else:
                shown.append(f"{name}={_blank_value(value)}" if equals else blank_text(word))
            secret = secret and not equals
        elif secret:
            shown.append(BLANK)
        elif re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*=.*", word, re.DOTALL) and secret_name(word.split("=", 1)[0]):
            shown.append(f"{word.split('=', 1)[0]}={BLANK}")  # env NAME=value vllm serve
        else:
            shown.append(_blank_value(word))
    return shown


def _blank_value(text: str) -> str:
    if text.lstrip().startswith(("{", "[")):
        try:
            value = json.loads(text)
        except ValueError:
            # Not JSON after all: nobody knows what is in it.
            return BLANK if words(text) & SECRET_WORDS else blank_text(text)
        if holds_secret(value):
            return json.dumps(blank_json(value))
    return blank_text(text)


def blank_json(value: t.Any) -> t.Any:
    if isinstance(value, Mapping):
        return {key: BLANK if secret_name(str(key)) else blank_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [blank_json(item) for item in value]
    return blank_text(value) if isinstance(value, str) else value


def carried(name: str) -> bool:
    """Whether a variable is one that vLLM or what it stands on reads."""
    return name in SINGLE or name.startswith(FAMILIES)


def shown_environment(environ: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """(harmless variables with their values, names alone of those that may be secret)."""
    harmless: dict[str, str] = {}
    secret: list[str] = []
    for name, value in sorted(environ.items()):
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            continue
        if secret_name(name) or secret_value(value):
            secret.append(name)
        elif carried(name) or name in SHOWN:
            harmless[name] = value
    return harmless, secret
