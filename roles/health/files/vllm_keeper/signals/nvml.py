# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Asks NVML. Run as a program of its own by the keeper (gpu_reader.py), never imported by it.

A process and not a thread, for three reasons: a call into a broken driver can hang where nothing but the end of a
process frees the caller; a crash of libnvidia-ml must not take the keeper along; and after a driver upgrade only a new
process loads the new library. It stays, because a first call takes a second on a host without persistence, and because
one process a look would cost more than the look.

It speaks JSON: a line comes in, a line goes out, until its input ends. It imports pynvml (the package nvidia-ml-py)
from the environment that runs it, and nothing else that is not Python's own.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

CLOCK_EVENTS = {
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal_slowdown",
    0x40: "hw_thermal_slowdown",
    0x80: "hw_power_brake_slowdown",
}
FIELD_RECOVERY_ACTION = 230  # NVML_FI_DEV_GET_GPU_RECOVERY_ACTION, since driver 560
RETIRED_BY_SINGLE, RETIRED_BY_DOUBLE = 0, 1
UNCORRECTED, VOLATILE, AGGREGATE = 1, 0, 1
THERMAL_SENSOR_GPU = 0
# NVML's numbers: pynvml of any version has them, and so has what stands in for it.
NOT_SUPPORTED, NO_PERMISSION, NOT_FOUND, DRIVER_NOT_LOADED, LIBRARY_NOT_FOUND = 3, 4, 6, 9, 12
FUNCTION_NOT_FOUND, GPU_IS_LOST, RESET_REQUIRED, VERSION_MISMATCH = 13, 15, 16, 18
UNTOLD = (NOT_SUPPORTED, NO_PERMISSION, NOT_FOUND, FUNCTION_NOT_FOUND)
FIRST_PID_NAMESPACE = "pid:[4026531836]"


class Gone(Exception):
    """NVML cannot be used at all. missing: library | driver | gpu, and "" where it is there and does not work."""

    def __init__(self, missing: str, detail: str) -> None:
        super().__init__(detail)
        self.missing = missing


class _GpuGone(Exception):
    """This GPU cannot be asked any more."""


def load(library: str) -> Any:
    if not library:
        try:
            return importlib.import_module("pynvml")
        except ImportError as error:
            raise Gone("library", f"{sys.executable} has no nvidia-ml-py ({error}); run site.yml") from error
    try:
        spec = importlib.util.spec_from_file_location("nvml_stand_in", library)
        if spec is None or spec.loader is None:
            raise ImportError("not a Python file")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except (ImportError, OSError, SyntaxError) as error:
        raise Gone("", f"gpu.library {library}: cannot be loaded ({error})") from error
    return module


class Library:
    """NVML, initialised."""

    def __init__(self, nvml: Any, proc: Path = Path("/proc"), here: bool | None = None) -> None:
        self.nvml, self.proc = nvml, proc
        # Whether NVML's pids are those of /proc. In a container they are the host's, or none are shown.
        self.here = self._in_first_namespace() if here is None else here
        self._notes: list[str] = []  # of the GPU that is being asked
        try:
            nvml.nvmlInit()
            self.driver = _text(nvml.nvmlSystemGetDriverVersion())
        except nvml.NVMLError as error:
            number = _number(error)
            if number in (DRIVER_NOT_LOADED, LIBRARY_NOT_FOUND):
                raise Gone("driver", f"no NVIDIA driver ({error})") from error
            if number == VERSION_MISMATCH:
                raise Gone(
                    "", f"{error}: the driver's files were replaced while the old module is loaded; reboot"
                ) from error
            raise Gone("", f"NVML cannot be initialised ({error})") from error

    def look(self) -> dict[str, Any]:
        count = self.nvml.nvmlDeviceGetCount()
        gpus = [self._gpu(index) for index in range(count)]
        if not gpus:
            raise Gone("gpu", f"driver {self.driver} is loaded and sees no GPU")
        return {"state": "ok", "driver": self.driver, "gpus": gpus}

    def _gpu(self, index: int) -> dict[str, Any]:
        nvml = self.nvml
        row: dict[str, Any] = {"index": index}
        self._notes = []
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            row["uuid"] = self._ask(lambda: _text(nvml.nvmlDeviceGetUUID(handle))) or ""
            row["name"] = self._ask(lambda: _text(nvml.nvmlDeviceGetName(handle))) or ""
            row["bus"] = self._ask(lambda: _text(nvml.nvmlDeviceGetPciInfo(handle).busId)) or ""
            row["memory"] = self._memory(handle)
            row["processes"] = self._processes(handle)
            row["all_processes"] = self.here
            ecc = nvml.nvmlDeviceGetTotalEccErrors
            row["ecc_volatile"] = self._ask(lambda: int(ecc(handle, UNCORRECTED, VOLATILE)))
            row["ecc_aggregate"] = self._ask(lambda: int(ecc(handle, UNCORRECTED, AGGREGATE)))
            remapped = self._ask(lambda: nvml.nvmlDeviceGetRemappedRows(handle))
            if remapped is not None:
                row["remap_pending"], row["remap_failed"] = bool(remapped[2]), bool(remapped[3])
            retired = [
                self._ask(partial(self._retired, handle, cause)) for cause in (RETIRED_BY_SINGLE, RETIRED_BY_DOUBLE)
            ]
            if None not in retired:
                row["retired_pages"] = sum(retired)
                row["retired_pending"] = self._ask(lambda: bool(nvml.nvmlDeviceGetRetiredPagesPendingStatus(handle)))
            row["recovery_action"] = self._ask(lambda: self._field(handle, FIELD_RECOVERY_ACTION))
            row["clock_events"] = self._clock_events(handle)
            row["temperature"] = self._ask(lambda: int(nvml.nvmlDeviceGetTemperature(handle, THERMAL_SENSOR_GPU)))
            row["utilisation"] = self._ask(lambda: int(nvml.nvmlDeviceGetUtilizationRates(handle).gpu))
            row["mig"] = bool((self._ask(lambda: nvml.nvmlDeviceGetMigMode(handle)) or [0])[0])
        except _GpuGone as error:
            row["error"] = str(error)
        except nvml.NVMLError as error:
            row["error"] = _fatal(error) or str(error)
        row["notes"] = sorted(set(self._notes))
        return row

    def _ask(self, question: Callable[[], Any]) -> Any:
        """None where this GPU or driver does not tell. Raises _GpuGone where it is the GPU that does not answer."""
        try:
            return question()
        except self.nvml.NVMLError as error:
            fatal = _fatal(error)
            if fatal:
                raise _GpuGone(fatal) from error
            if _number(error) not in UNTOLD:
                # One reading that fails, as after an ECC error, must not hide the others.
                self._notes.append(str(error))
            return None
        except AttributeError:
            return None  # a library older than the question

    def _retired(self, handle: Any, cause: int) -> int:
        return len(self.nvml.nvmlDeviceGetRetiredPages(handle, cause))

    def _memory(self, handle: Any) -> dict[str, int] | None:
        nvml = self.nvml
        version = getattr(nvml, "nvmlMemory_v2", None)
        if version is not None:
            told = self._ask(lambda: nvml.nvmlDeviceGetMemoryInfo(handle, version=version))
            if told is not None:
                return {"total": int(told.total), "used": int(told.used), "reserved": int(told.reserved)}
        told = self._ask(lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
        return None if told is None else {"total": int(told.total), "used": int(told.used)}

    def _processes(self, handle: Any) -> list[dict[str, Any]] | None:
        nvml = self.nvml
        compute = self._ask(lambda: nvml.nvmlDeviceGetComputeRunningProcesses(handle))
        if compute is None:
            return None
        graphics = self._ask(lambda: nvml.nvmlDeviceGetGraphicsRunningProcesses(handle)) or []
        held: dict[int, int | None] = {}
        for process in (*compute, *graphics):
            pid, used = int(process.pid), process.usedGpuMemory
            before = held.get(pid)
            # A process that does both is in both lists with the same memory.
            held[pid] = before if used is None else max(int(used), before or 0)
        return [
            {"pid": pid, "used": used, "alive": not self.here or self._alive(pid)} for pid, used in sorted(held.items())
        ]

    def _in_first_namespace(self) -> bool:
        try:
            return str((self.proc / "self/ns/pid").readlink()) == FIRST_PID_NAMESPACE
        except OSError:
            return False

    def _alive(self, pid: int) -> bool:
        try:
            stat = (self.proc / str(pid) / "stat").read_bytes()
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return stat.rpartition(b") ")[2][:1] not in (b"Z", b"X")

    def _field(self, handle: Any, field: int) -> int | None:
        value = self.nvml.nvmlDeviceGetFieldValues(handle, [field])[0]
        return int(value.value.uiVal) if value.nvmlReturn == 0 else None

    def _clock_events(self, handle: Any) -> list[str] | None:
        ask = getattr(self.nvml, "nvmlDeviceGetCurrentClocksEventReasons", None)
        ask = ask or self.nvml.nvmlDeviceGetCurrentClocksThrottleReasons
        bits = self._ask(lambda: int(ask(handle)))
        return None if bits is None else [name for bit, name in CLOCK_EVENTS.items() if bits & bit]


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _number(error: Any) -> int:
    return int(getattr(error, "value", -1))


def _fatal(error: Any) -> str:
    return {GPU_IS_LOST: "gpu_is_lost", RESET_REQUIRED: "reset_required"}.get(_number(error), "")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Answers each line of input with the readings of all GPUs, as JSON.")
    parser.add_argument("--library", default="", help="a Python file to load in place of pynvml")
    library = parser.parse_args(arguments).library
    nvml: Library | None = None
    for _line in sys.stdin:
        try:
            # What stands in for NVML names processes of wherever it is rehearsed.
            nvml = nvml or Library(load(library), here=True if library else None)
            answer = nvml.look()
        except Gone as error:
            state = "absent" if error.missing else "broken"
            answer = {"state": state, "missing": error.missing, "detail": str(error)}
        except Exception as error:
            # Whatever it is, it has to reach the keeper, whose next reader then starts afresh.
            answer = {"state": "broken", "detail": f"{type(error).__name__}: {error}"}
        if library:
            answer["library"] = library
        print(json.dumps(answer), flush=True)
        if answer["state"] != "ok":
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
