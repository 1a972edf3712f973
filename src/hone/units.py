"""Format numbers for people: counts, bytes, seconds, percentages."""

from __future__ import annotations

GIB = 1024**3


def format_count(number: float) -> str:
    """950, 12.3k, 1.23M, 7B."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}"


def format_bytes(number: float) -> str:
    """512.0 KiB, 3.5 GiB."""
    for unit, size in (("TiB", 1024**4), ("GiB", GIB), ("MiB", 1024**2)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number / 1024:.1f} KiB"


def format_duration(seconds: float) -> str:
    """42s, 3m07s, 2h05m, 3d04h."""
    whole = round(seconds)
    for unit, below, first, second in ((86400, 3600, "d", "h"), (3600, 60, "h", "m"), (60, 1, "m", "s")):
        if whole >= unit:
            return f"{whole // unit}{first}{whole % unit // below:02d}{second}"
    return f"{whole}s"


def format_percent(share: float) -> str:
    """0.1234 -> 12.3%."""
    return f"{100 * share:.3g}%"


def counted(number: int, noun: str) -> str:
    """1 thread, 2 threads, 2 processes."""
    return f"{number} {noun}{'' if number == 1 else 'es' if noun.endswith('s') else 's'}"
