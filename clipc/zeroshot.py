"""The methods of a model as functions: ``clipc.classify(images, labels)`` uses the default model.

Each takes ``model=None``: a `Model`, or what `load` takes; None is the default model. Everything else is as
for the method of the same name.
"""

from __future__ import annotations

import functools

from clipc.model import Model, default_model, load
from clipc.prediction import Prediction

__all__ = [
    "Prediction",
    "classifier",
    "classify",
    "encode_image",
    "encode_text",
    "knows",
    "preprocess",
    "similarity",
]


@functools.lru_cache(maxsize=2)
def _load_once(name):
    return load(name)


def _resolve(model):
    if model is None:
        return default_model()
    return model if isinstance(model, Model) else _load_once(model)


def _as_function(method):
    @functools.wraps(method)
    def function(*arguments, model=None, **options):
        return method(_resolve(model), *arguments, **options)

    function.__module__ = __name__
    function.__qualname__ = method.__name__
    indent = " " * 8
    function.__doc__ = (
        f"{method.__doc__.rstrip()}\n\n"
        f"{indent}The method `clipc.Model.{method.__name__}` as a function.\n"
        f"{indent}``model``: a `Model`, or what `clipc.load` takes; None: the default model.\n{indent}"
    )
    function.__signature__ = _signature_with_model(method)
    return function


def _signature_with_model(method):
    import inspect

    signature = inspect.signature(method)
    parameters = list(signature.parameters.values())[1:]
    parameters.append(inspect.Parameter("model", inspect.Parameter.KEYWORD_ONLY, default=None))
    return signature.replace(parameters=parameters)


preprocess = _as_function(Model.preprocess)
encode_image = _as_function(Model.encode_image)
encode_text = _as_function(Model.encode_text)
similarity = _as_function(Model.similarity)
classifier = _as_function(Model.classifier)
classify = _as_function(Model.classify)
knows = _as_function(Model.knows)
