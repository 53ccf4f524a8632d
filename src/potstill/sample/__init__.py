"""Step 1: a potential for one metal → a pool of configurations, liquid, solid and between."""

from potstill.sample.pool import Sampled, sample

__all__ = ["Sampled", "sample"]
