"""Where results live: run directories of stages and units, and stores of labels."""

from potstill.store.labels import Entry, LabelStore, label_key
from potstill.store.stages import (
    FORMAT,
    LOG,
    Outcome,
    RunDir,
    Stage,
    Units,
    Verdict,
    digest,
    file_digest,
    read_json,
    versions,
    write_json,
)

__all__ = [
    "FORMAT",
    "LOG",
    "Entry",
    "LabelStore",
    "Outcome",
    "RunDir",
    "Stage",
    "Units",
    "Verdict",
    "digest",
    "file_digest",
    "label_key",
    "read_json",
    "versions",
    "write_json",
]
