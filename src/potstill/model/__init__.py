"""The model: fixed descriptors, a committee of small networks. Torch is imported by training only."""

from pathlib import Path

from potstill.freshness import forget_stale
from potstill.model.committee import Committee, CommitteeCalculator, Prediction
from potstill.model.descriptor import Descriptor, Whitening
from potstill.model.features import FrameFeatures

__all__ = ["Committee", "CommitteeCalculator", "Descriptor", "FrameFeatures", "Prediction", "Whitening"]

forget_stale(Path(__file__).parent)  # nothing compiled has been called yet
