"""The methods of a model as functions: ``clipc.classify(images, labels)`` uses the default model.

Each takes ``model=None``: a `Model`, or what `load` takes; None is the default model. Everything else is as
for the method of the same name.
"""

from __future__ import annotations

from clipc.as_function import as_function
from clipc.model import Model
from clipc.prediction import Prediction

__all__ = [
    "Prediction",
    "classifier",
    "classify",
    "detect",
    "detect_by_image",
    "encode_image",
    "encode_text",
    "knows",
    "preprocess",
    "similarity",
]

preprocess = as_function(Model.preprocess, __name__)
encode_image = as_function(Model.encode_image, __name__)
encode_text = as_function(Model.encode_text, __name__)
similarity = as_function(Model.similarity, __name__)
classifier = as_function(Model.classifier, __name__)
classify = as_function(Model.classify, __name__)
detect = as_function(Model.detect, __name__)
detect_by_image = as_function(Model.detect_by_image, __name__)
knows = as_function(Model.knows, __name__)
