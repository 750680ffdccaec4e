# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs on a lab host as the service would, in place of vLLM: tries what the unit forbids and what vLLM needs.

probe_bounds.py MODE RESULT: bounds, tasks, memory, ...; RESULT gets JSON, {what was tried: "ok" or the errno's name}.
Standard library only, any Python 3.
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import resource
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)
PORT = 8099
TMP, SHARED = tempfile.gettempdir(), str(Path("/dev", "shm"))
PTRACE_ATTACH, CLONE_NEWUSER = 16, 0x10000000
METADATA = {"metadata": (socket.AF_INET, "169.254.169.254"), "metadata6": (socket.AF_INET6, "fd00:ec2::254")}


def tried(what: Callable[[], object]) -> str:
    try:
        what()
    except socket.timeout:
        return "no answer"
    except OSError as err:
        return errno.errorcode.get(err.errno or 0, str(err))
    return "ok"


def call(result: int) -> None:
    if result == -1:
        raise OSError(ctypes.get_errno(), "")


def write(folder: str) -> None:
    path = Path(folder) / ".steadfast-probe"
    path.write_text("x")
    path.unlink()


def connect(family: int, address: str) -> None:
    with socket.socket(family) as client:
        client.settimeout(1)
        client.connect((address, PORT))


def attach() -> None:
    child = os.fork()
    if child == 0:
        time.sleep(5)
        os._exit(0)
    try:
        call(LIBC.ptrace(PTRACE_ATTACH, child, None, None))
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def in_child(what: Callable[[], object]) -> Callable[[], None]:
    """For what would change this process."""

    def run() -> None:
        child = os.fork()
        if child == 0:
            try:
                what()
            except OSError as err:
                os._exit(err.errno or 255)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        if os.WIFSIGNALED(status):
            raise OSError(0, f"signal {os.WTERMSIG(status)}")
        if os.WEXITSTATUS(status):
            raise OSError(os.WEXITSTATUS(status), "")

    return run


def status(key: str) -> str:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(line.split(":", 1)[1].strip() for line in lines if line.startswith(key + ":"))


def bounds() -> dict[str, object]:
    found: dict[str, object] = {
        f"write {folder}": tried(lambda folder=folder: write(folder))  # type: ignore[misc]
        for folder in [os.environ["HOME"], TMP, SHARED, "/etc", "/usr", "/srv", "/var/cache", "/opt"]
    }
    found["host's /tmp"] = tried(lambda: os.stat(f"{TMP}/steadfast-probe-marker"))
    found["/home"] = tried(lambda: os.stat("/home/steadfast-probe"))
    found["allowed device"] = tried(lambda: os.close(os.open("/dev/steadfast-allowed", os.O_RDWR)))
    found["other device"] = tried(lambda: os.close(os.open("/dev/steadfast-refused", os.O_RDWR)))
    found["/dev/null"] = tried(lambda: os.close(os.open("/dev/null", os.O_RDWR)))
    for name, (family, address) in METADATA.items():
        found[name] = tried(lambda family=family, address=address: connect(family, address))  # type: ignore[misc]
    found["address beside it"] = tried(lambda: connect(socket.AF_INET, "169.254.169.250"))
    found["ptrace"] = tried(attach)
    found["raw socket family"] = tried(lambda: socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).close())
    found["namespace"] = tried(in_child(lambda: call(LIBC.unshare(CLONE_NEWUSER))))
    found["process 1"] = tried(lambda: os.stat("/proc/1"))
    found["32-bit personality"] = tried(in_child(lambda: call(LIBC.personality(8))))
    found["chown"] = tried(lambda: os.chown(SHARED, -1, -1))
    found["capabilities"] = status("CapBnd").strip("0") or "none"
    found["no new privileges"] = status("NoNewPrivs")
    found["own user namespace"] = Path("/proc/self/uid_map").read_text().split()[-1] != "4294967295"
    found["umask"] = status("Umask")
    # What CUDA's and Triton's compilers, NUMA placement and NCCL do.
    found["machine code"] = tried(lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC))
    found["affinity"] = tried(lambda: os.sched_setaffinity(0, os.sched_getaffinity(0)))
    found["lock memory"] = tried(lambda: lock(64 * 1024))
    found["netlink"] = tried(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close())
    found["caches"] = sorted(key for key in os.environ if key.endswith("_CACHE_DIR"))
    return found


def lock(size: int) -> None:
    with mmap.mmap(-1, size) as memory:
        call(LIBC.mlock(ctypes.byref(ctypes.c_char.from_buffer(memory)), ctypes.c_size_t(size)))


def tasks() -> dict[str, object]:
    children: list[int] = []
    why = "none"
    try:
        while len(children) < 500:
            child = os.fork()
            if child == 0:
                time.sleep(60)
                os._exit(0)
            children.append(child)
    except OSError as err:
        why = errno.errorcode[err.errno or 0]
    for child in children:
        os.kill(child, signal.SIGKILL)
    return {"made": len(children), "why": why}


def limits() -> dict[str, object]:
    held = []
    why = "none"
    try:
        while len(held) < 5000:
            held.append(os.open("/dev/null", os.O_RDONLY))
    except OSError as err:
        why = errno.errorcode[err.errno or 0]
    files = len(held)
    for descriptor in held:
        os.close(descriptor)
    began, used = time.monotonic(), time.process_time()
    while time.monotonic() - began < 2:
        pass
    return {
        "files": files,
        "why": why,
        "cpu": (time.process_time() - used) / (time.monotonic() - began),
        "locked 512K": tried(lambda: lock(512 * 1024)),
        "locked 4M": tried(lambda: lock(4 * 1024 * 1024)),
        "rlimits": [resource.getrlimit(resource.RLIMIT_NOFILE)[0], resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]],
        "oom_score_adj": int(Path("/proc/self/oom_score_adj").read_text()),
    }


def memory(result: Path) -> None:
    held: list[bytearray] = []
    for megabytes in range(8, 1025, 8):
        held.append(bytearray(os.urandom(1024) * 1024 * 8))
        result.write_text(json.dumps({"megabytes": megabytes}))


def main() -> None:
    mode, result = sys.argv[1], Path(sys.argv[2])
    if mode == "memory":
        memory(result)
        return
    result.write_text(json.dumps({"bounds": bounds, "tasks": tasks, "limits": limits}[mode]()))


if __name__ == "__main__":
    main()
