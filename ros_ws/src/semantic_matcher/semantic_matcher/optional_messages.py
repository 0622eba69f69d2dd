"""Messages of packages that are not everywhere; the ROS wheels of PyPI lack them."""

from __future__ import annotations

import importlib
from typing import Any

from semantic_matcher_core.errors import MissingPackageError


def optional_messages(package: str, what: str) -> Any:
    """Return the module of a package's messages.

    Args:
        package: such as tf2_msgs.
        what: was asked for and needs it, in words.

    Raises:
        MissingPackageError: it is not installed; the message has the command that installs it.
    """
    try:
        return importlib.import_module(f"{package}.msg")
    except ImportError as error:
        raise MissingPackageError(
            f"{what} needs {package}, which cannot be imported here "
            f"(apt install ros-$ROS_DISTRO-{package.replace('_', '-')})"
        ) from error
