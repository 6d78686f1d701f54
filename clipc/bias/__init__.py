"""Does a zero-shot classifier treat groups of people differently? Imported when asked for.

    from clipc import bias

    print(bias.audit("fairface_val", "nurse-doctor", "gender"))
    print(bias.wording("fairface_val", ["people-gorilla", "human-gorilla"], "race"))

`audit` counts which label each group's pictures are given, with intervals, and tests the gaps between groups
against chance; `wording` asks the same pictures in other words. What is measured is a model with certain
labels on certain pictures. It is not the people in them: groups are what a data set's makers noted, and a
label that wins says which of the given texts fits best, not that any does.

`statistics` has every formula with its source, `presets` the label sets of published audits.
"""

from clipc.bias.audits import AuditReport, audit
from clipc.bias.presets import PRESETS, TEMPLATES, Preset
from clipc.bias.wordings import WordingReport, wording

__all__ = [
    "PRESETS",
    "TEMPLATES",
    "AuditReport",
    "Preset",
    "WordingReport",
    "audit",
    "wording",
]
