"""Explanations as functions: ``clipc.grad_cam(image, text)`` uses the default model.

Each takes ``model=None``: a `Model`, or what `load` takes; None is the default model. Everything else is as
for the method of the same name.
"""

from __future__ import annotations

from clipc.as_function import as_function
from clipc.heat_map import HeatMap
from clipc.model import Model
from clipc.word_relevance import WordRelevance

__all__ = ["HeatMap", "WordRelevance", "difference_map", "grad_cam", "seen_box", "text_relevance"]

grad_cam = as_function(Model.grad_cam, __name__)
difference_map = as_function(Model.difference_map, __name__)
text_relevance = as_function(Model.text_relevance, __name__)
seen_box = as_function(Model.seen_box, __name__)
