"""CLIP on a CPU: zero-shot classification with a C core and NumPy arrays.

    import clipc

    clipc.classify("photo.jpg", ["dog", "cat"])

`load` gives a `Model`; the functions of this module are its methods with ``model=None``, which means
the default model (see `load`).
"""

import os as _os

# Before the core, which would load it anyway: NumPy's own OpenBLAS is to find the environment as it is.
import numpy as _numpy  # noqa: F401


def _preload_openblas():
    """Load OpenBLAS by its full path, for installations where it does not lie beside the package.

    The extension looks for it in the neighbouring package ``scipy_openblas32``. In an editable install, or
    when the two packages are in different site folders, it is elsewhere; a library that is loaded already is
    found by its name. The package is located, not imported: importing it takes longer than all of clipc.
    """
    import ctypes
    import glob
    import importlib.util

    spec = importlib.util.find_spec("scipy_openblas32")
    folders = (spec.submodule_search_locations or ()) if spec else ()
    libraries = [
        path for folder in folders for path in glob.glob(_os.path.join(folder, "lib", "libscipy_openblas*"))
    ]
    if not libraries:
        raise ImportError("clipc needs the package scipy-openblas32: pip install scipy-openblas32")
    ctypes.CDLL(libraries[0])


def _load_core():
    """Import the extension, and OpenBLAS with it, without letting OpenBLAS start threads of its own.

    The core splits the work itself and never uses them, yet each keeps a processor busy for a while, waiting
    for its first task. On two processors they doubled what importing clipc adds to importing NumPy, from 19
    to 38 ms. OpenBLAS reads the variable when it is loaded, and only then.
    """
    name = "OPENBLAS_NUM_THREADS"
    before = _os.environ.get(name)
    _os.environ[name] = "1"
    try:
        try:
            from clipc import _core
        except ImportError as error:
            if "openblas" not in str(error):
                raise
            _preload_openblas()
            from clipc import _core  # noqa: F401
    finally:
        if before is None:
            del _os.environ[name]
        else:
            _os.environ[name] = before


_load_core()

# ruff: noqa: E402
from clipc.errors import ClipcError, ClipcWarning, DownloadError, ImageError, WeightsError
from clipc.explanation import (
    HeatMap,
    WordRelevance,
    difference_map,
    grad_cam,
    seen_box,
    text_relevance,
)
from clipc.model import Model, get_num_threads, load, set_num_threads, show_config
from clipc.tokenizer import tokenize
from clipc.weights.zoo import available_models
from clipc.zeroshot import (
    Prediction,
    classifier,
    classify,
    detect,
    detect_by_image,
    encode_image,
    encode_text,
    knows,
    preprocess,
    similarity,
)

__all__ = [
    "ClipcError",
    "ClipcWarning",
    "Detection",
    "Detections",
    "DownloadError",
    "HeatMap",
    "ImageError",
    "LabelledImages",
    "Model",
    "Prediction",
    "WeightsError",
    "WordRelevance",
    "available_models",
    "bias",
    "classifier",
    "classify",
    "detect",
    "detect_by_image",
    "difference_map",
    "draw_boxes",
    "encode_image",
    "encode_text",
    "evaluate",
    "get_num_threads",
    "grad_cam",
    "knows",
    "load",
    "overlay",
    "preprocess",
    "read_labelled_images",
    "seen_box",
    "set_num_threads",
    "show_config",
    "similarity",
    "text_relevance",
    "tokenize",
]


# Imported when asked for, so that `import clipc` stays quick: modules, and names of other modules.
_MODULES = ("bias", "evaluate")
_NAMES = {
    "Detection": "clipc.detections",
    "Detections": "clipc.detections",
    "LabelledImages": "clipc.labelled_images",
    "draw_boxes": "clipc.drawing",
    "overlay": "clipc.drawing",
    "read_labelled_images": "clipc.labelled_images",
}


def __getattr__(name):
    if name in _MODULES or name in _NAMES:
        import importlib

        if name in _MODULES:
            return importlib.import_module(f"clipc.{name}")
        found = getattr(importlib.import_module(_NAMES[name]), name)
        globals()[name] = found
        return found
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


def __dir__():
    return sorted({*globals(), *__all__})
