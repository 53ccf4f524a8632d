"""Step 5: structures that somebody proposes, relaxed and judged."""

from potstill.relaxing.batch import How
from potstill.relaxing.judge import Row
from potstill.relaxing.learn import Learnt, learn
from potstill.relaxing.learn import save as save_learnt
from potstill.relaxing.limits import Limits
from potstill.relaxing.read import Proposed, from_memory, read_structures
from potstill.relaxing.work import Relaxed, compare, relax, save, table_text

__all__ = [
    "How",
    "Learnt",
    "Limits",
    "Proposed",
    "Relaxed",
    "Row",
    "compare",
    "from_memory",
    "learn",
    "read_structures",
    "relax",
    "save",
    "save_learnt",
    "table_text",
]
