"""Step 1: a potential for one metal → a pool of configurations, liquid and solid."""

from potstill.sample.ladder import Rung, rungs, sample

__all__ = ["Rung", "rungs", "sample"]
