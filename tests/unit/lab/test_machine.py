# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the lab reads from the machine: sources of packages."""

from __future__ import annotations

from pathlib import Path

import pytest
from labkit import machine
from labkit.work import LabError, cache_root

TARGETS = """\
http://mirror.example/debian/ bookworm
http://mirror.example/debian/ bookworm-updates
http://security.example/debian-security/ bookworm-security
http://tools.example/apt/ stable
"""


def test_sources_of_another_suite_come_from_the_addresses_used_here() -> None:
    lines = machine.apt_sources("trixie", TARGETS, "bookworm").splitlines()
    assert [line.split()[2:4] for line in lines] == [
        ["http://mirror.example/debian/", "trixie"],
        ["http://mirror.example/debian/", "trixie-updates"],
        ["http://security.example/debian-security/", "trixie-security"],
    ]


def test_only_pockets_that_are_used_here() -> None:
    assert len(machine.apt_sources("trixie", TARGETS.splitlines()[0], "bookworm").splitlines()) == 1


@pytest.mark.parametrize(("targets", "here"), [("", "bookworm"), ("http://a.example/ubuntu/ noble", "noble")])
def test_no_debian_source_says_the_way_out(targets: str, here: str) -> None:
    with pytest.raises(LabError, match="STEADFAST_DEBIAN_ARCHIVE"):
        machine.apt_sources("trixie", targets, here)
    assert "http://own.example/debian trixie" in machine.apt_sources(
        "trixie", targets, here, "http://own.example/debian"
    )


def test_pip_settings_are_merged_in_pips_order() -> None:
    weak = "[global]\nindex-url = http://weak.example/simple\nfind_links = /srv/a\n  /srv/b\n"
    strong = "[install]\nindex-url = http://strong.example/simple\n"
    pip = machine.pip_settings([weak, "not an ini file", strong], {})
    assert pip.index_url == "http://strong.example/simple"
    assert pip.find_links == ("/srv/a", "/srv/b")
    assert machine.pip_settings([weak], {"PIP_FIND_LINKS": "/srv/c"}).find_links == ("/srv/c",)


def test_an_index_on_this_disk_is_not_handed_to_hosts() -> None:
    text = "[global]\nextra-index-url = file:///srv/simple https://more.example/simple\n"
    assert machine.pip_settings([text], {}).extra_index_urls == ("https://more.example/simple",)


def test_local_folders(tmp_path: Path) -> None:
    pip = machine.Pip(find_links=(str(tmp_path), tmp_path.as_uri(), "https://wheels.example/", str(tmp_path / "none")))
    assert machine.local_folders(pip) == [tmp_path, tmp_path]


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"STEADFAST_CACHE": "/c", "XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/c"),
        ({"XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/x/steadfast-vllm"),
        ({"XDG_CACHE_HOME": "", "HOME": "/h"}, "/h/.cache/steadfast-vllm"),
    ],
)
def test_cache_root(environ: dict[str, str], expected: str) -> None:
    assert cache_root(environ) == Path(expected)
