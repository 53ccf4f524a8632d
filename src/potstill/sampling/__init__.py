"""Step 1: a potential for one metal → a pool of configurations, liquid, solid and between."""

from potstill.sampling.campaign import StrayedError
from potstill.sampling.metal import EXTENDED
from potstill.sampling.pool import Sampled, sample
from potstill.sampling.walkers import path_of

__all__ = ["EXTENDED", "Sampled", "StrayedError", "path_of", "sample"]
