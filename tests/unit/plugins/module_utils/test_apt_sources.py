# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host's sources, and what they lack of their own archive."""

from __future__ import annotations

import pytest
from ansible_collections.steadfast.vllm.plugins.module_utils import _apt_sources
from ansible_collections.steadfast.vllm.plugins.module_utils._apt_sources import Source, lacking, read, text

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
WANTED = ("contrib", "non-free", "non-free-firmware")
DEB822 = f"""# A comment
Types: deb deb-src
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: {KEYRING}

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main

Types: deb-src
URIs: http://mirror.example/debian
Suites: bookworm
Components: main
"""
ONE_LINE = f"""# deb http://off.example/debian bookworm main
deb [signed-by={KEYRING} arch=amd64,arm64] http://mirror.example/debian-security bookworm-security main contrib # here
deb-src http://mirror.example/debian bookworm main
deb http://third.example/debian/12/prod bookworm main
deb http://tool.example/linux bookworm stable
"""


def test_both_formats_are_read_and_what_is_off_is_not() -> None:
    found = read({"debian.sources": DEB822, "sources.list": ONE_LINE})
    assert found == [
        Source(
            ("http://mirror.example/debian",), ("bookworm", "bookworm-updates"), ("main",), (("Signed-By", KEYRING),)
        ),
        Source(
            ("http://mirror.example/debian-security",),
            ("bookworm-security",),
            ("main", "contrib"),
            (("Signed-By", KEYRING), ("Architectures", "amd64 arm64")),
        ),
        Source(("http://third.example/debian/12/prod",), ("bookworm",), ("main",)),
        Source(("http://tool.example/linux",), ("bookworm",), ("stable",)),
    ]


def test_only_the_distribution_s_own_archive_gets_what_it_lacks() -> None:
    found = lacking(read({"a.sources": DEB822, "b.list": ONE_LINE}), "bookworm", {}, WANTED)
    assert found == [
        Source(("http://mirror.example/debian",), ("bookworm", "bookworm-updates"), WANTED, (("Signed-By", KEYRING),)),
        Source(
            ("http://mirror.example/debian-security",),
            ("bookworm-security",),
            ("non-free", "non-free-firmware"),
            (("Signed-By", KEYRING), ("Architectures", "amd64 arm64")),
        ),
    ]


@pytest.mark.parametrize(("origin", "own"), [("Debian", True), ("Mia's packages", False)])
def test_an_archive_is_known_by_what_it_says_of_itself(origin: str, own: bool) -> None:
    sources = read({"sources.list": "deb https://proxy.example/repository/apt-1/ bookworm main\n"})
    said = {"https://proxy.example/repository/apt-1": origin}
    assert bool(lacking(sources, "bookworm", said, WANTED)) is own
    assert _apt_sources.own(sources, "bookworm", said) is own
    assert not _apt_sources.own(sources, "bookworm", {})


def test_a_third_party_that_calls_its_folder_debian_is_known_by_its_origin() -> None:
    sources = read({"x.list": "deb https://third.example/debian bookworm main\n"})
    assert lacking(sources, "bookworm", {"https://third.example/debian": "third"}, WANTED) == []


def test_what_another_source_has_is_not_lacking() -> None:
    both = "deb http://m.example/debian bookworm main\ndeb http://m.example/debian/ bookworm contrib non-free\n"
    (found,) = lacking(read({"sources.list": both}), "bookworm", {}, WANTED)
    assert found.components == ("non-free-firmware",)
    full = f"deb http://m.example/debian bookworm main {' '.join(WANTED)}\n"
    assert lacking(read({"sources.list": full}), "bookworm", {}, WANTED) == []


def test_what_is_written_is_read_again() -> None:
    key = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n.\nmQINBF\n-----END PGP PUBLIC KEY BLOCK-----"
    inline = Source(("https://v.example/repo",), ("/",), (), (("Signed-By", key),))
    plain = Source(("http://m.example/debian",), ("bookworm",), ("contrib",), (("Signed-By", KEYRING),))
    written = text([plain, inline], "Head")
    assert written.startswith("# Head\nTypes: deb\n")
    again = read({"x.sources": written})
    assert again[0] == plain
    assert again[1].uris == inline.uris and again[1].suites == ("/",)
    assert [line.strip() for line in again[1].options[0][1].splitlines()] == key.splitlines()
    assert text([], "Head") == ""
