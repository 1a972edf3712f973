"""GPU utilisation and memory, averaged over the time between two log lines. No metrics without CUDA."""

from __future__ import annotations

import functools
import sys
import threading
from types import ModuleType

from hone.units import GIB


def cuda() -> ModuleType | None:
    """torch.cuda, when something else has already imported torch and there is a device."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    return torch.cuda


class GpuMonitor:
    """Samples the devices of this process every `interval` seconds, on a thread of its own: a sample taken when a step
    is logged would measure the pause between two steps."""

    def __init__(self, interval: float = 1.0) -> None:
        self._cuda = cuda()
        self._samples: list[float] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        if self._cuda is not None and self._sample() is not None:
            watch = functools.partial(self._watch, interval)
            self._thread = threading.Thread(target=watch, daemon=True, name="gpu-monitor")
            self._thread.start()

    def metrics(self) -> dict[str, float]:
        """`gpu_utilization` in percent since the last call, `gpu_memory_gib` as the peak of the fullest device."""
        if self._cuda is None:
            return {}
        peak = max(self._cuda.max_memory_allocated(device) for device in range(self._cuda.device_count()))
        metrics = {"gpu_memory_gib": peak / GIB}
        samples, self._samples = self._samples, []
        if not samples and (now := self._sample()) is not None:
            samples = [now]
        return metrics | ({"gpu_utilization": sum(samples) / len(samples)} if samples else {})

    def close(self) -> None:
        """Stop sampling."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=5)

    def _watch(self, interval: float) -> None:
        while not self._stop.wait(interval):
            if (sample := self._sample()) is not None:
                self._samples.append(sample)

    def _sample(self) -> float | None:
        """Mean utilisation of the visible devices in percent; None where it is unknown (no NVML)."""
        assert self._cuda is not None
        try:
            used = [self._cuda.utilization(device) for device in range(self._cuda.device_count())]
        except (ImportError, RuntimeError):  # nvidia-ml-py missing; NVML refuses, as in some containers
            return None
        return sum(used) / len(used)
