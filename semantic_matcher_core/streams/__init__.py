"""Which frames are matched with which: temporal, stereo and reference streams.

A stream takes images one by one, extracts the features of each once, and matches them with those of the frame it chose.
The ROS nodes and the offline bag path feed the same streams, so that the same frames give the same matches.

Time stamps are whole nanoseconds. Zero means that the source gives none: such frames are taken as they come.
"""

from semantic_matcher_core.streams.frames import FeatureMatcher, Frame, MatchedPair, Verifier, features_of
from semantic_matcher_core.streams.pairing import REFERENCE_POLICIES, TemporalPairing, inlier_share, overlap
from semantic_matcher_core.streams.reference import ReferenceStream
from semantic_matcher_core.streams.reuse import SemanticReuse
from semantic_matcher_core.streams.stamps import StampMonitor, StampOrder
from semantic_matcher_core.streams.stereo import StereoStream, view_of_pair
from semantic_matcher_core.streams.synchronizer import SYNC, StereoSynchronizer, slop_of
from semantic_matcher_core.streams.temporal import TemporalStream

__all__ = [
    "REFERENCE_POLICIES",
    "SYNC",
    "FeatureMatcher",
    "Frame",
    "MatchedPair",
    "ReferenceStream",
    "SemanticReuse",
    "StampMonitor",
    "StampOrder",
    "StereoStream",
    "StereoSynchronizer",
    "TemporalPairing",
    "TemporalStream",
    "Verifier",
    "features_of",
    "inlier_share",
    "overlap",
    "slop_of",
    "view_of_pair",
]
