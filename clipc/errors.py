"""Exceptions and warnings that clipc raises beside Python's own.

Wrong arguments raise ``TypeError`` or ``ValueError``, missing files ``OSError``, lack of memory
``MemoryError``. What is wrong with the *content* of a file has a class of its own below, so that a
caller who walks over many files can tell a bad file from a bad call.
"""

import os
import sys
import warnings

from .parallel import in_order


class ClipcError(Exception):
    """Base class of the exceptions that clipc defines."""


class ImageError(ClipcError, ValueError):
    """The bytes are not an image that can be decoded, or the image is damaged or too large."""


class WeightsError(ClipcError, ValueError):
    """A weight file is damaged, or does not hold a CLIP model that clipc knows."""


class DownloadError(ClipcError, OSError):
    """A file could not be downloaded, or what came is not the file; nothing of it has its final name."""


class NoNetworkError(DownloadError):
    """No server could be reached: no network, no such host, a proxy or a certificate that fails."""


class ClipcWarning(UserWarning):
    """A result is valid but may not be what the caller expects."""


def warn(message):
    """Give a `ClipcWarning` that points to the line outside clipc that led to it.

    In a task of `clipc.parallel` it is put off: line and filters are those of the caller.
    """
    in_order(_warn, message)


def _warn(message):
    folder = os.path.dirname(__file__)
    level, frame = 1, sys._getframe()
    while frame is not None and os.path.dirname(frame.f_code.co_filename).startswith(folder):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, ClipcWarning, stacklevel=level)
