"""Step 4: the configurations of one metal, scaled to others and labelled anew: no sampling, no distilling."""

from potstill.transferring.foundation import foundation
from potstill.transferring.grow import grow
from potstill.transferring.source import Source, read_source, scaled
from potstill.transferring.target import Target, parse_target, table_rows, table_text, transfer, transfer_stage

__all__ = [
    "Source",
    "Target",
    "foundation",
    "grow",
    "parse_target",
    "read_source",
    "scaled",
    "table_rows",
    "table_text",
    "transfer",
    "transfer_stage",
]
