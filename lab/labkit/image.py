# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Host images: a bare Debian with real systemd, from this machine's own apt settings."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from . import machine
from .work import LabError, Workshop, digest, run

PACKAGES = (
    "systemd",
    "systemd-sysv",
    "dbus",
    "libpam-systemd",
    "python3",
    "python3-apt",
    "python3-venv",
    "sudo",
    "cron",
    "curl",
    "ca-certificates",
    "iproute2",
    "iputils-ping",
    "procps",
    "debian-archive-keyring",
)
# what has no meaning in a container, or would run apt behind a test's back
MASKED = (
    "getty@tty1.service",
    "console-getty.service",
    "getty.target",
    "systemd-udevd.service",
    "systemd-udev-trigger.service",
    "systemd-networkd-wait-online.service",
    "systemd-firstboot.service",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "e2scrub_all.timer",
    "fstrim.timer",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-modules-load.service",
)
WHEELHOUSE = "/srv/lab/wheelhouse"
UV_CACHE = "/srv/lab/uv-cache"


def find_links_mount(index: int) -> str:
    return f"/srv/lab/find-links/{index}"


@dataclass(frozen=True)
class Recipe:
    """All that decides what is in an image; its digest is the image's tag."""

    suite: str
    files: dict[str, str]
    packages: tuple[str, ...] = PACKAGES
    masked: tuple[str, ...] = MASKED
    version: int = 1

    @property
    def tag(self) -> str:
        return f"localhost/steadfast-lab-{self.suite}:{digest(asdict(self))}"


def quoted(values: list[str]) -> str:
    return "[" + ", ".join(f'"{value}"' for value in values) + "]"


def pip_conf(pip: machine.Pip, folders: int) -> str:
    lines = ["[global]", "cert = /etc/ssl/certs/ca-certificates.crt", "disable-pip-version-check = true"]
    if pip.index_url:
        lines.append(f"index-url = {pip.index_url}")
    if pip.extra_index_urls:
        lines.append("extra-index-url = " + " ".join(pip.extra_index_urls))
    if folders:
        lines.append("find-links = " + " ".join(find_links_mount(index) for index in range(folders)))
    return "\n".join(lines) + "\n"


def uv_toml(pip: machine.Pip, folders: int, torch_backend: bool) -> str:
    """uv's settings in a host: where packages come from here, and the cache that all hosts share."""
    remote = [link for link in pip.find_links if "://" in link and not link.startswith("file:")]
    links = [WHEELHOUSE, *(find_links_mount(index) for index in range(folders)), *remote]
    lines = [
        f'cache-dir = "{UV_CACHE}"',
        # the cache is another mount, where hard links cannot reach; saying so spares a warning
        'link-mode = "copy"',
        "system-certs = true",
        'python-downloads = "never"',
        f"find-links = {quoted(links)}",
    ]
    if pip.extra_index_urls:
        lines.append('index-strategy = "unsafe-best-match"')
    for url in pip.extra_index_urls:
        lines += ["[[index]]", f'url = "{url}"']
    if pip.index_url:
        lines += ["[[index]]", f'url = "{pip.index_url}"', "default = true"]
    if torch_backend:
        lines += ["[pip]", 'torch-backend = "cpu"']
    return "\n".join(lines) + "\n"


def recipe(suite: str, pip: machine.Pip, torch_backend: bool) -> Recipe:
    folders = len(machine.local_folders(pip))
    files = {
        "etc/apt/sources.list": machine.read_apt_sources(suite),
        "etc/apt/apt.conf.d/90lab": machine.read_apt_options(),
        "etc/pip.conf": pip_conf(pip, folders),
        "etc/uv/uv.toml": uv_toml(pip, folders, torch_backend),
        "etc/environment": "".join(f"{key}={value}\n" for key, value in machine.read_proxies().items()),
    }
    for name, text in machine.read_certificates().items():
        files[f"usr/local/share/ca-certificates/{name}"] = text
    return Recipe(suite, files)


def there(wanted: Recipe) -> bool:
    listed = run(["podman", "images", "--quiet", "--filter", f"reference={wanted.tag}"], "listing images")
    return bool(listed.strip())


SETUP = """#!/bin/sh
set -eu
root=$1 work=$2
for unit in $(cat "$work/masked"); do ln -sf /dev/null "$root/etc/systemd/system/$unit"; done
chroot "$root" systemctl set-default multi-user.target >/dev/null 2>&1
: > "$root/etc/machine-id"
rm -f "$root/var/lib/dbus/machine-id" "$root/usr/sbin/policy-rc.d" "$root/etc/hostname" "$root/etc/resolv.conf"
rm -f "$root"/etc/apt/sources.list.d/* "$root"/etc/apt/apt.conf.d/99mmdebstrap
mkdir -p "$root/srv/lab"
cp -R "$work/files/." "$root/"
chroot "$root" update-ca-certificates >/dev/null 2>&1
"""


def build(shop: Workshop, wanted: Recipe) -> str:
    """Build the image; it appears under its tag at once or not at all."""
    for tool in ("mmdebstrap", "podman"):
        if not shutil.which(tool):
            raise LabError(f"{tool} is not installed: apt-get install mmdebstrap podman runc debian-archive-keyring")
    with shop.scratch(f"image-{wanted.suite}") as work:
        for name, text in wanted.files.items():
            path = work / "files" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (work / "masked").write_text("\n".join(wanted.masked))
        setup = work / "setup.sh"
        setup.write_text(SETUP)
        setup.chmod(0o755)
        (work / "tmp").mkdir()
        tar = work / "image.tar"
        argv = [
            # its mounts and processes live in their own namespaces and end with this process, however it ends
            *["setpriv", "--pdeathsig", "KILL"],
            *["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"],
            *["mmdebstrap", "--quiet", "--variant=apt", "--mode=root", "--format=tar", "--skip=cleanup/apt/lists"],
            "--include=" + ",".join(wanted.packages),
            '--aptopt=Acquire::Languages "none"',
            *[f"--aptopt={line}" for line in wanted.files["etc/apt/apt.conf.d/90lab"].splitlines()],
            *[f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("man", "doc", "locale")],
            f'--customize-hook={setup} "$1" {work}',
            wanted.suite,
            str(tar),
            str(work / "files/etc/apt/sources.list"),
        ]
        run(argv, f"building the {wanted.suite} host image", env=_environment(work / "tmp"))
        size = tar.stat().st_size
        changes = ['CMD ["/sbin/init"]', "STOPSIGNAL SIGRTMIN+3", "ENV container=podman"]
        options = [part for change in changes for part in ("--change", change)]
        run(["podman", "import", "--quiet", *options, str(tar), wanted.tag], "importing the image")
    _drop_older(wanted)
    return f"{size >> 20} MiB"


def _environment(tmp: Path) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(tmp), "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}


def _drop_older(wanted: Recipe) -> None:
    """Images of older recipes, unless a host still runs one."""
    name = wanted.tag.rpartition(":")[0]
    listed = run(["podman", "images", "--format", "{{.Repository}}:{{.Tag}}", name], "listing images")
    for tag in listed.split():
        if tag != wanted.tag:
            try:
                run(["podman", "rmi", tag], "removing an image")
            except LabError:
                continue
