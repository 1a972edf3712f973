"""A run's numbers and samples for people: in the terminal (`hone show`) and as one HTML page (`report.html`).

Readers only: nothing here changes what a run computes.
"""

from __future__ import annotations

from hone.report.page import write_report
from hone.report.pictures import draw_run

__all__ = ["draw_run", "write_report"]
