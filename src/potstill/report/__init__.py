"""Step 6: a run directory → one self-contained page, and every number on it as JSON. Reads the directory only."""

from potstill.report.page import report

__all__ = ["report"]
