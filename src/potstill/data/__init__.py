"""Frames, labels and datasets, and their way in and out of structure files."""

from potstill.data.files import (
    Draw,
    LabelKeys,
    detect_label_keys,
    read_frames,
    read_pool,
    structure_files,
    write_atomic,
)
from potstill.data.frames import VOIGT, Array, Dataset, Failure, Frame, Labels, Origin, sum_to, tensor, voigt
from potstill.data.sketch import sketch

__all__ = [
    "VOIGT",
    "Array",
    "Dataset",
    "Draw",
    "Failure",
    "Frame",
    "LabelKeys",
    "Labels",
    "Origin",
    "detect_label_keys",
    "read_frames",
    "read_pool",
    "sketch",
    "structure_files",
    "sum_to",
    "tensor",
    "voigt",
    "write_atomic",
]
