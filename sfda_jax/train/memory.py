"""Memory that this process and its device hold."""

import pathlib
import resource

import jax
import psutil

_GIB = 2**30


def memory_gib() -> float:
    """Resident memory of this process, GiB."""
    return psutil.Process().memory_info().rss / _GIB


def host_peak_gib() -> float:
    """The most memory this process has held, GiB, to a thousandth.

    Linux tells it for the program alone; its other count, the only one elsewhere,
    begins with what the parent process held.
    """
    status = pathlib.Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return round(int(line.split()[1]) / 2**20, 3)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3)


def device_peak() -> dict[str, float]:
    """`device_peak_gib` of the first local device; nothing where it does not tell."""
    stats = jax.local_devices()[0].memory_stats() or {}
    peak = stats.get("peak_bytes_in_use")
    return {} if peak is None else {"device_peak_gib": round(peak / _GIB, 3)}
