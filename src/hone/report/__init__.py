"""For people: what a run did and what the model said, in the terminal (`hone show`) and as one HTML page.

    run.py       a run's folder, read         panels.py   which metrics are shown together
    terminal.py, words.py  `hone show`        samples.py  which rollouts a page holds
    compare.py   two runs                     report.py   `report.html`
    pictures.py  what a run leaves that ends

Readers only: nothing here changes what a run computes, and nothing imports torch.
"""

from __future__ import annotations

from hone.report.page import write_report
from hone.report.pictures import draw_run

__all__ = ["draw_run", "write_report"]
