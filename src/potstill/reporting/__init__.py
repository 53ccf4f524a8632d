"""Step 6: a directory → one self-contained page, and every number on it as JSON. Reads the directory only."""

from potstill.reporting.gallery import gallery
from potstill.reporting.live import Watch, state
from potstill.reporting.page import report

__all__ = ["Watch", "gallery", "report", "state"]
