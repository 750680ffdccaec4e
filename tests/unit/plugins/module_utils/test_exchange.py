# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be asked, and what of an answer may be told; the exchange itself is tests/integration's."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.steadfast.vllm.plugins.module_utils import _exchange
from ansible_collections.steadfast.vllm.plugins.module_utils._exchange import Target, TargetError


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("http://127.0.0.1:8000", Target("http", "127.0.0.1", 8000, "")),
        ("http://gpu1:8000/", Target("http", "gpu1", 8000, "")),
        ("https://gpu1/vllm/", Target("https", "gpu1", 443, "/vllm")),
        ("http://gpu1", Target("http", "gpu1", 80, "")),
        ("http://[::1]:8000/", Target("http", "::1", 8000, "")),
    ],
)
def test_a_base_url(url: str, parts: Target) -> None:
    assert _exchange.target(url, "url") == parts
    assert _exchange.target(parts.url, "url") == parts


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("gpu1:8000", "'gpu1:8000' is no URL of a server"),
        ("", "'' is no URL"),
        ("ftp://gpu1", "is no URL of a server"),
        ("http://:8000", "is no URL of a server"),
        ("http://gpu1:eight", "is no URL"),
        ("http://gpu1:70000", "is no URL"),
        ("http://[::1", "is no URL"),
        ("http://gpu1/?x=1", "more than a base URL"),
        ("http://gpu1/#x", "more than a base URL"),
        ("http://gpu1/a b", "more than a base URL"),
        ("http://gpu1/ä", "more than a base URL"),
    ],
)
def test_what_is_no_base_url_is_refused_with_its_place_and_mend(url: str, says: str) -> None:
    with pytest.raises(TargetError) as raised:
        _exchange.target(url, "keeper_url")
    assert str(raised.value).startswith("keeper_url: ") and says in str(raised.value)
    assert "http://HOST:PORT" in str(raised.value)


def test_a_password_in_a_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(TargetError) as raised:
        _exchange.target("http://ada:hunter2@gpu1:8000", "url")
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("key", ["sk hunter2", "sk-hunter2\n", "sk-hunter2\r\nX: y", "hunter2-ü"])
def test_a_key_that_no_header_can_carry_is_refused_and_not_repeated(key: str) -> None:
    with pytest.raises(TargetError, match="api_key: ") as raised:
        _exchange.bearer(key)
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(("key", "carried"), [(None, ""), ("", ""), ("sk-1_=+/.~", "sk-1_=+/.~")])
def test_a_key(key: str | None, carried: str) -> None:
    assert _exchange.bearer(key) == carried


def test_a_file_of_certificates_that_is_none_is_told(tmp_path: Path) -> None:
    for file in (f"{tmp_path}/missing.pem", __file__):
        with pytest.raises(TargetError, match=rf"ca_path: {file} cannot be read \(.+\); give a file of PEM"):
            _exchange.tls(True, file)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", ""),
        (b"busy", " (busy)"),
        (b'{"error": {"message": "engine is dead"}}', " (engine is dead)"),
        (b'{"error": "Unauthorized"}', ' ({"error": "Unauthorized"})'),
        (b'{"detail": "Not Found"}', " (Not Found)"),
        (b'{"message": "no"}', " (no)"),
        (b"<html><body>404</body></html>", ""),
        (b"one\r\n\x1b[31mtwo\x00", " (one [31mtwo)"),
        (b"\xff" * 4, f" ({chr(0xFFFD) * 4})"),
        (b"x" * 5000, f" ({'x' * 200})"),
        (b"[1, 2]", " ([1, 2])"),
    ],
)
def test_the_server_s_own_words_in_one_line(body: bytes, words: str) -> None:
    assert _exchange.said(body) == words
