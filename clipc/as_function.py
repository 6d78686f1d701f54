"""The methods of a model as functions of the module, for the default model."""

from __future__ import annotations

import functools

from clipc.model import Model, default_model, load


@functools.lru_cache(maxsize=2)
def _load_once(name):
    return load(name)


def resolve_model(model):
    """The model that ``model=`` means: itself, what `load` makes of a name, or for None the default model."""
    if model is None:
        return default_model()
    return model if isinstance(model, Model) else _load_once(model)


def as_function(method, module):
    """The method as a function with one more argument, ``model=None``, of the module of this name."""

    @functools.wraps(method)
    def function(*arguments, model=None, **options):
        return method(resolve_model(model), *arguments, **options)

    function.__module__ = module
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
