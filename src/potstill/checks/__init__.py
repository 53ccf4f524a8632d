"""Step 3: what a potential is judged by. One Check a file; the same code measures model and reference."""

from potstill.checks.card import CHECKS, card, fast, named
from potstill.checks.errors import ErrorReport, errors_on
from potstill.checks.outside import Outside
from potstill.checks.polymorphs import Polymorphs, compare_polymorphs
from potstill.checks.reliability import reliability
from potstill.checks.verdict import validate

__all__ = [
    "CHECKS",
    "ErrorReport",
    "Outside",
    "Polymorphs",
    "card",
    "compare_polymorphs",
    "errors_on",
    "fast",
    "named",
    "reliability",
    "validate",
]
