"""What to do when something that a test needs is not there."""

import importlib
import os

import pytest


def in_ci():
    """Whether this is a run of the project's own checks, where nothing may be missing."""
    return os.environ.get("CI", "").lower() in ("1", "true", "yes")


def unavailable(reason):
    """Skip the test (or, while it is collected, the module) with a reason; in CI fail instead."""
    if in_ci():
        pytest.fail(f"{reason} (CI=true: nothing may be missing)", pytrace=False)
    pytest.skip(reason, allow_module_level=True)


def require(module):
    """Import a module that only tests need, or report it as unavailable.

    Examples
    --------
    >>> torch = require("torch")
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        unavailable(f"{module} cannot be imported: {error}")
