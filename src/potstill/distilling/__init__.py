"""Step 2: pool → distilled set. Rounds of train, ask where labels would teach most, label only those."""

from potstill.distilling.loop import Distilled, distil, round_sizes, set_apart

__all__ = ["Distilled", "distil", "round_sizes", "set_apart"]
