"""CLIP on a CPU: zero-shot classification with a C core and NumPy arrays.

    import clipc

    clipc.classify("photo.jpg", ["dog", "cat"])

`load` gives a `Model`; the functions of this module are its methods with ``model=None``, which means
the default model (see `load`).
"""


def _preload_openblas():
    """Load OpenBLAS by its full path, for installations where it does not lie beside the package.

    The extension looks for it in the neighbouring package ``scipy_openblas32``. In an editable install, or
    when the two packages are in different site folders, it is elsewhere; a library that is loaded already is
    found by its name.
    """
    import ctypes
    import os

    try:
        import scipy_openblas32
    except ImportError:
        raise ImportError("clipc needs the package scipy-openblas32: pip install scipy-openblas32") from None
    ctypes.CDLL(os.path.join(scipy_openblas32.get_lib_dir(), scipy_openblas32.get_library(fullname=True)))


try:
    from clipc import _core
except ImportError as error:
    if "openblas" not in str(error):
        raise
    _preload_openblas()
    from clipc import _core  # noqa: F401

from clipc.errors import ClipcError, ClipcWarning, ImageError, WeightsError
from clipc.model import Model, get_num_threads, load, set_num_threads, show_config
from clipc.tokenizer import tokenize
from clipc.weights.zoo import available_models
from clipc.zeroshot import Prediction, classifier, classify, encode_image, encode_text, knows, preprocess, similarity

__all__ = [
    "ClipcError",
    "ClipcWarning",
    "ImageError",
    "Model",
    "Prediction",
    "WeightsError",
    "available_models",
    "classifier",
    "classify",
    "encode_image",
    "encode_text",
    "get_num_threads",
    "knows",
    "load",
    "preprocess",
    "set_num_threads",
    "show_config",
    "similarity",
    "tokenize",
]


def __getattr__(name):
    # Looked up when asked for: importing importlib.metadata takes as long as the rest of clipc.
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            found = version("clipc")
        except PackageNotFoundError:  # the source folder, not installed
            found = "unknown"
        globals()[name] = found
        return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
