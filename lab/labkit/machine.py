# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What this machine is set to: package sources, certificates, proxies, limits. Read here, never committed."""

from __future__ import annotations

import configparser
import os
import re
import resource
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from .work import LabError, run

PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
CERTIFICATES = Path("/usr/local/share/ca-certificates")
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


@dataclass(frozen=True)
class Pip:
    """The part of pip's configuration that says where packages come from."""

    index_url: str | None = None
    extra_index_urls: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()


def pip_settings(files: Iterable[str], environ: Mapping[str, str]) -> Pip:
    """Merge pip's configuration files (texts, weakest first) and its environment variables."""
    found: dict[str, str] = {}
    for text in files:
        parser = configparser.RawConfigParser()
        try:
            parser.read_string(text)
        except configparser.Error:
            continue
        for section in ("global", "install"):
            if parser.has_section(section):
                found.update({key.replace("_", "-"): value for key, value in parser.items(section)})
    for key in ("index-url", "extra-index-url", "find-links"):
        value = environ.get("PIP_" + key.upper().replace("-", "_"))
        if value:
            found[key] = value
    return Pip(
        index_url=found.get("index-url") or None,
        # an index on this machine's own disk is not to be seen from a host
        extra_index_urls=tuple(url for url in found.get("extra-index-url", "").split() if not _local(url)),
        find_links=tuple(dict.fromkeys(found.get("find-links", "").split())),
    )


def _local(address: str) -> bool:
    return address.startswith(("file:", "/", "."))


def read_pip() -> Pip:
    home = Path.home()
    places = [
        Path("/etc/xdg/pip/pip.conf"),
        Path("/etc/pip.conf"),
        home / ".pip/pip.conf",
        home / ".config/pip/pip.conf",
    ]
    if os.environ.get("PIP_CONFIG_FILE"):
        places.append(Path(os.environ["PIP_CONFIG_FILE"]))
    return pip_settings([place.read_text() for place in places if place.is_file()], os.environ)


def local_folders(pip: Pip) -> list[Path]:
    """The folders of wheels that pip is told to look in, which exist here."""
    folders = []
    for link in pip.find_links:
        path = Path(re.sub("^file:(//)?", "", link))
        if _local(link) and path.is_dir():
            folders.append(path.resolve())
    return folders


def apt_sources(suite: str, targets: str, here: str, override: str | None = None) -> str:
    """A sources.list for SUITE from the addresses that apt uses here for its own suite.

    TARGETS is the output of `apt-get indextargets` as "URI RELEASE" lines, HERE this machine's code name.
    """
    address: dict[str, str] = {}
    for line in targets.splitlines():
        uri, _, release = line.strip().partition(" ")
        if release and "debian" in uri:
            address.setdefault(release, uri)
    main = override or address.get(here)
    if not main:
        raise LabError(
            f"apt has no Debian source for {here or 'this system'} here, so no host image can be built. "
            "Run apt-get update, or give a Debian archive: STEADFAST_DEBIAN_ARCHIVE=<address>"
        )
    lines = [f"deb [signed-by={KEYRING}] {main} {suite} main"]
    for pocket in ("updates", "security"):
        if f"{here}-{pocket}" in address:
            lines.append(f"deb [signed-by={KEYRING}] {address[f'{here}-{pocket}']} {suite}-{pocket} main")
    return "\n".join(lines) + "\n"


def read_apt_sources(suite: str) -> str:
    release = {}
    for line in Path("/etc/os-release").read_text().splitlines():
        key, _, value = line.partition("=")
        release[key] = value.strip('"')
    targets = run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages"],
        "reading apt's sources",
    )
    override = os.environ.get("STEADFAST_DEBIAN_ARCHIVE")
    return apt_sources(suite, targets, release.get("VERSION_CODENAME", ""), override)


def read_apt_options() -> str:
    """How apt fetches here (proxy, dates, retries), so that it fetches so in a host."""
    dump = run(["apt-config", "dump"], "reading apt's options")
    wanted = re.compile(r"^Acquire::(Check-|Retries|http|https)")
    return "".join(line + "\n" for line in dump.splitlines() if wanted.match(line) and not line.endswith('"";'))


def read_certificates() -> dict[str, str]:
    if not CERTIFICATES.is_dir():
        return {}
    return {path.name: path.read_text() for path in sorted(CERTIFICATES.glob("*.crt"))}


def read_proxies() -> dict[str, str]:
    return {name: os.environ[name] for name in PROXIES if os.environ.get(name)}


def uv() -> Path:
    """The uv of the tool chain that runs this, else the one on PATH."""
    beside = Path(sys.executable).parent / "uv"
    found = str(beside) if beside.exists() else shutil.which("uv")
    if not found:
        raise LabError("uv is not installed: run `make` once, which sets up .venv, or put .venv/bin on PATH")
    return Path(found).resolve()


def open_files() -> int:
    """The hard limit on open files: without CAP_SYS_RESOURCE a container cannot be given more."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return 1048576 if hard == resource.RLIM_INFINITY else min(hard, 1048576)


def processes() -> int:
    hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    return 32768 if hard == resource.RLIM_INFINITY else min(hard, 32768)
