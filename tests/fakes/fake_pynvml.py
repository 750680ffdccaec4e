# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A fake: stands where pynvml stands, and says of GPUs that do not exist what a JSON file tells it to say.

For tests and rehearsals on machines without a GPU. The keeper loads it when its setting gpu.library names this file,
and then shows that name wherever it shows readings. The file is $FAKE_PYNVML, or fake_pynvml.json beside this one; it
is read again at each question, so a fault is a change of the file:

    {"driver": "580.159.04", "hang": 0, "crash": false, "init_error": 0,
     "gpus": [{"uuid": "GPU-0", "name": "Fake H100", "bus": "00000000:3B:00.0",
               "memory": {"total": 85520809984, "used": 0, "reserved": 503316480},
               "processes": [{"pid": 1234, "used": 1073741824}],
               "ecc_volatile": 0, "ecc_aggregate": 0, "remap_pending": false, "remap_failed": false,
               "retired_pages": 0, "retired_pending": false, "recovery_action": 0, "clock_events": 0,
               "temperature": 40, "utilisation": 0, "mig": false, "error": 0}]}

A key that a GPU leaves out is "not supported", as on a real one. "error" is a number of NVML's that every question
about this GPU is answered with: 15 is lost, 16 needs a reset. "hang" is how many seconds the driver takes to answer.
"""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

NVML_ERROR_NOT_SUPPORTED = 3
WORDS = {
    3: "Not Supported",
    9: "Driver Not Loaded",
    12: "NVML Shared Library Not Found",
    15: "GPU is lost",
    16: "GPU requires restart",
    18: "RM has detected an NVML/RM version mismatch.",
    999: "Unknown Error",
}
nvmlMemory_v2 = 0x02000028
NAMES = ("total", "used", "reserved")


class NVMLError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__(WORDS.get(value, f"NVML error {value}"))
        self.value = value


def _told() -> dict[str, Any]:
    path = os.environ.get("FAKE_PYNVML") or str(Path(__file__).with_suffix(".json"))
    told: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    if told.get("hang"):
        time.sleep(told["hang"])
    if told.get("crash"):
        os.kill(os.getpid(), signal.SIGSEGV)
    return told


def _key(gpu: dict[str, Any], key: str) -> Any:
    if gpu.get("error"):
        raise NVMLError(gpu["error"])
    if key not in gpu:
        raise NVMLError(NVML_ERROR_NOT_SUPPORTED)
    return gpu[key]


def nvmlInit() -> None:
    number = _told().get("init_error", 0)
    if number:
        raise NVMLError(number)


def nvmlSystemGetDriverVersion() -> str:
    return str(_told().get("driver", "0"))


def nvmlDeviceGetCount() -> int:
    return len(_told()["gpus"])


def nvmlDeviceGetHandleByIndex(index: int) -> dict[str, Any]:
    gpu: dict[str, Any] = _told()["gpus"][index]
    return gpu


def nvmlDeviceGetUUID(gpu: dict[str, Any]) -> bytes:
    return str(_key(gpu, "uuid")).encode()  # bytes, as from older versions


def nvmlDeviceGetName(gpu: dict[str, Any]) -> str:
    return str(_key(gpu, "name"))


def nvmlDeviceGetPciInfo(gpu: dict[str, Any]) -> SimpleNamespace:
    return SimpleNamespace(busId=_key(gpu, "bus"))


def nvmlDeviceGetMemoryInfo(gpu: dict[str, Any], version: int | None = None) -> SimpleNamespace:
    memory = _key(gpu, "memory")
    if version is None:  # the first call counts what is reserved as used
        return SimpleNamespace(total=memory["total"], used=memory["used"] + memory.get("reserved", 0))
    if "reserved" not in memory:
        raise NVMLError(NVML_ERROR_NOT_SUPPORTED)
    return SimpleNamespace(**{name: memory[name] for name in NAMES})


def nvmlDeviceGetComputeRunningProcesses(gpu: dict[str, Any]) -> list[SimpleNamespace]:
    return [SimpleNamespace(pid=one["pid"], usedGpuMemory=one.get("used")) for one in _key(gpu, "processes")]


def nvmlDeviceGetGraphicsRunningProcesses(gpu: dict[str, Any]) -> list[SimpleNamespace]:
    return [SimpleNamespace(pid=one["pid"], usedGpuMemory=one.get("used")) for one in _key(gpu, "graphics")]


def nvmlDeviceGetTotalEccErrors(gpu: dict[str, Any], kind: int, counter: int) -> int:
    if kind != 1:
        raise NVMLError(NVML_ERROR_NOT_SUPPORTED)
    return int(_key(gpu, "ecc_aggregate" if counter else "ecc_volatile"))


def nvmlDeviceGetRemappedRows(gpu: dict[str, Any]) -> tuple[int, int, int, int]:
    return (0, 0, int(_key(gpu, "remap_pending")), int(_key(gpu, "remap_failed")))


def nvmlDeviceGetRetiredPages(gpu: dict[str, Any], cause: int) -> list[int]:
    return [0] * int(_key(gpu, "retired_pages")) if cause else []


def nvmlDeviceGetRetiredPagesPendingStatus(gpu: dict[str, Any]) -> int:
    return int(_key(gpu, "retired_pending"))


def nvmlDeviceGetFieldValues(gpu: dict[str, Any], fields: list[int]) -> list[SimpleNamespace]:
    if gpu.get("error"):
        raise NVMLError(gpu["error"])
    known = fields == [230] and "recovery_action" in gpu
    value = SimpleNamespace(uiVal=gpu.get("recovery_action", 0))
    return [SimpleNamespace(nvmlReturn=0 if known else NVML_ERROR_NOT_SUPPORTED, value=value)]


def nvmlDeviceGetCurrentClocksEventReasons(gpu: dict[str, Any]) -> int:
    return int(_key(gpu, "clock_events"))


def nvmlDeviceGetTemperature(gpu: dict[str, Any], sensor: int) -> int:
    return int(_key(gpu, "temperature")) if sensor == 0 else 0


def nvmlDeviceGetUtilizationRates(gpu: dict[str, Any]) -> SimpleNamespace:
    return SimpleNamespace(gpu=_key(gpu, "utilisation"), memory=0)


def nvmlDeviceGetMigMode(gpu: dict[str, Any]) -> list[int]:
    return [int(_key(gpu, "mig"))] * 2
