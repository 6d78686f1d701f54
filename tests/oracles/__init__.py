"""What results are compared with: OpenAI's PyTorch code, transformers, and random weights for both.

`clip_reference`
    OpenAI's model and tokenizer, loaded by path; features, spread, parity.
`random_models`
    Architectures, full-size and small; weights and pictures that carry a signal.
`layouts`
    Writes weights in every layout of files that clipc reads.
`transformers_reference`
    Features by Hugging Face's implementation.
`explanations`
    Every method of explanation by autograd, and the package `grad-cam`.

All of it needs PyTorch; import it inside tests or fixtures where tests without PyTorch share the file.
"""

from . import explanations, layouts
from .architecture import Architecture
from .clip_reference import (
    Features,
    OracleMissing,
    build_reference,
    check_parity,
    double_reference,
    load_float32,
    max_error,
    reference_image_features,
    reference_text_features,
    reference_tokenizer,
    spread,
    tokenize,
)
from .random_models import FULL, SMALL, SPECS, TEXTS, photographs, pictures_uint8, random_state_dict

__all__ = [
    "Architecture",
    "FULL",
    "Features",
    "OracleMissing",
    "SMALL",
    "SPECS",
    "TEXTS",
    "build_reference",
    "check_parity",
    "double_reference",
    "explanations",
    "layouts",
    "load_float32",
    "max_error",
    "photographs",
    "pictures_uint8",
    "random_state_dict",
    "reference_image_features",
    "reference_text_features",
    "reference_tokenizer",
    "spread",
    "tokenize",
]
