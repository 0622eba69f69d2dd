"""Registration of surfaces that bend: image pairs and videos onto a template, and surfaces in 3-D."""

from semantic_matcher_core.registration.config import RegistrationConfig
from semantic_matcher_core.registration.frames import FrameRegistration, TemplateTracker, register_frames
from semantic_matcher_core.registration.pair import Registration, register_onto, register_pair
from semantic_matcher_core.registration.smoothing import OneEuroFilter
from semantic_matcher_core.registration.template import Template
from semantic_matcher_core.registration.video import register_video

__all__ = [
    "FrameRegistration",
    "OneEuroFilter",
    "Registration",
    "RegistrationConfig",
    "Template",
    "TemplateTracker",
    "register_frames",
    "register_onto",
    "register_pair",
    "register_video",
]
