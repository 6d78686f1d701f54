"""How good is a model, an explanation, a detection? Imported when asked for.

    from clipc import evaluate

    print(evaluate.zero_shot("zeroshot", conditions=["original", "grey", "edges"]))
    print(evaluate.pointing_game("coco128", methods=["gradcam", "surgery"]))
    print(evaluate.explanations("coco128", ["gradcam", "scorecam"], limit=50))
    print(evaluate.average_precision("coco128", methods=["windows", "dense"]))

Each module below measures one kind of answer; its docstring says how.
"""

from clipc.annotations import AnnotatedPicture, AnnotatedPictures, read_boxes
from clipc.box_scores import ClassScore, DetectionEvaluation, DetectionScore
from clipc.evaluate.accuracy import PROMPTS, ClassifiedPicture, ZeroShotEvaluation, zero_shot
from clipc.evaluate.against_boxes import (
    average_precision,
    deletion_insertion,
    energy_in_boxes,
    explanations,
    pointing_game,
)
from clipc.evaluate.conditions import CONDITIONS, Condition
from clipc.evaluate.contrastive import ContrastiveLoss, contrastive_loss
from clipc.evaluate.probe import LinearProbeEvaluation, linear_probe
from clipc.evaluate.published import (
    PUBLISHED_PROMPTS,
    PUBLISHED_ROBUSTNESS,
    PUBLISHED_ZERO_SHOT_MINUS_PROBE,
)
from clipc.evaluate.ranking import RetrievalEvaluation, retrieval
from clipc.scores import Evaluation, Evaluations, MethodScore

__all__ = [
    "AnnotatedPicture",
    "AnnotatedPictures",
    "CONDITIONS",
    "ClassScore",
    "ClassifiedPicture",
    "Condition",
    "ContrastiveLoss",
    "DetectionEvaluation",
    "DetectionScore",
    "Evaluation",
    "Evaluations",
    "LinearProbeEvaluation",
    "MethodScore",
    "PROMPTS",
    "PUBLISHED_PROMPTS",
    "PUBLISHED_ROBUSTNESS",
    "PUBLISHED_ZERO_SHOT_MINUS_PROBE",
    "RetrievalEvaluation",
    "ZeroShotEvaluation",
    "average_precision",
    "contrastive_loss",
    "deletion_insertion",
    "energy_in_boxes",
    "explanations",
    "linear_probe",
    "pointing_game",
    "read_boxes",
    "retrieval",
    "zero_shot",
]
