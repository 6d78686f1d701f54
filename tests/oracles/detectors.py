"""OWL-ViT and OWLv2 of transformers with random weights that carry a signal, and their answers."""

import dataclasses
import json
import zlib
from pathlib import Path

import numpy as np
import torch


@dataclasses.dataclass(frozen=True)
class Detector:
    """The sizes of a detector.

    Attributes
    ----------
    kind : {"owlvit", "owlv2"}
    embed_dim : int
        Also the width of the text tower, as in all of Google's checkpoints.
    """

    name: str
    kind: str
    image_size: int
    patch_size: int
    vision_width: int
    vision_layers: int
    embed_dim: int
    text_layers: int

    @property
    def grid(self):
        return self.image_size // self.patch_size


# As google/owlvit-base-patch32 and its siblings.
FULL_DETECTORS = {
    spec.name: spec
    for spec in (
        Detector("OWL-ViT B/32", "owlvit", 768, 32, 768, 12, 512, 12),
        Detector("OWL-ViT B/16", "owlvit", 768, 16, 768, 12, 512, 12),
        Detector("OWLv2 B/16", "owlv2", 960, 16, 768, 12, 512, 12),
    )
}
# The same grids of patches, narrow and shallow; then sizes for tests of something else.
NARROW_DETECTORS = {
    spec.name: spec
    for spec in (
        Detector("OWL-ViT B/32 narrow", "owlvit", 768, 32, 128, 3, 64, 2),
        Detector("OWL-ViT B/16 narrow", "owlvit", 768, 16, 128, 2, 64, 2),
        Detector("OWL-ViT L/14 narrow", "owlvit", 840, 14, 192, 2, 128, 2),
        Detector("OWLv2 B/16 narrow", "owlv2", 960, 16, 128, 2, 64, 2),
        Detector("OWLv2 L/14 narrow", "owlv2", 1008, 14, 64, 2, 64, 2),
        Detector("OWL-ViT small", "owlvit", 160, 16, 128, 2, 64, 2),
        Detector("OWLv2 small", "owlv2", 126, 14, 128, 2, 64, 2),
    )
}
DETECTORS = {**NARROW_DETECTORS, **FULL_DETECTORS}


def classes(kind):
    """The configuration, the model and the image processor (that with Pillow and SciPy) of transformers."""
    if kind == "owlvit":
        from transformers import OwlViTConfig, OwlViTForObjectDetection
        from transformers.models.owlvit.image_processing_pil_owlvit import OwlViTImageProcessorPil

        return OwlViTConfig, OwlViTForObjectDetection, OwlViTImageProcessorPil
    from transformers import Owlv2Config, Owlv2ForObjectDetection
    from transformers.models.owlv2.image_processing_pil_owlv2 import Owlv2ImageProcessorPil

    return Owlv2Config, Owlv2ForObjectDetection, Owlv2ImageProcessorPil


def build_detector(spec, seed=0):
    """A model of transformers with random weights.

    The heads are scaled so that scores and boxes differ between patches and none comes near 0 or 1.
    """
    config_class, model_class, _ = classes(spec.kind)
    config = config_class(
        projection_dim=spec.embed_dim,
        text_config={
            "hidden_size": spec.embed_dim, "intermediate_size": 4 * spec.embed_dim,
            "num_hidden_layers": spec.text_layers, "num_attention_heads": spec.embed_dim // 64,
        },
        vision_config={
            "hidden_size": spec.vision_width, "intermediate_size": 4 * spec.vision_width,
            "num_hidden_layers": spec.vision_layers, "num_attention_heads": spec.vision_width // 64,
            "image_size": spec.image_size, "patch_size": spec.patch_size,
        },
    )  # fmt: skip
    model = model_class(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
            parameter.copy_(torch.from_numpy(_random(name, tuple(parameter.shape), rng)))
    return model


def _random(name, shape, rng):
    values = rng.standard_normal(shape, dtype=np.float32)
    if name.endswith("logit_scale") and not shape:
        return np.array(2.6592, np.float32)
    if "embedding" in name and "patch" not in name:
        return values * np.float32(0.3)
    if name.endswith("box_head.dense2.bias"):
        # Boxes of several patches, so that they overlap and go beyond the picture.
        return values * np.float32(0.1) + np.array([0, 0, 1.5, 1.5], np.float32)
    if name.endswith("bias"):
        # Of the class head: cosines are small, and without it every score were near 1/2.
        return values * np.float32(0.1) - np.float32(0.8 if "logit_shift" in name else 0)
    if len(shape) == 1:
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    fan_in = np.prod(shape[1:])
    scale = 0.5 if "logit_shift" in name else 1.0
    return values * np.float32(scale / np.sqrt(fan_in))


def save_detector(model, folder):
    """Write `model.safetensors` and `config.json` as transformers does, and `preprocessor_config.json`."""
    model.save_pretrained(folder)
    kind = model.config.model_type
    side = model.config.vision_config.image_size
    processor = {"do_resize": True, "do_normalize": True, "size": {"height": side, "width": side}}
    if kind == "owlvit":
        processor.update(do_center_crop=False, crop_size={"height": side, "width": side}, resample=3)
    else:
        processor.update(do_pad=True, resample=2)
    Path(folder, "preprocessor_config.json").write_text(json.dumps(processor))
    return Path(folder)


def detector_processor(spec):
    """The image processor of transformers for a detector."""
    size = {"height": spec.image_size, "width": spec.image_size}
    return classes(spec.kind)[2](size=size)


def as_detections(output):
    """A dict of arrays from the output of transformers for one picture."""
    names = ("logits", "class_embeds", "pred_boxes", "target_pred_boxes", "objectness_logits")
    return {name: output[name][0].numpy() for name in names if name in output}


def detect_by_text(model, pixels, tokens, interpolate=False):
    """What transformers finds in one picture (3, R, R) for token ids (N, 16)."""
    with torch.inference_mode():
        output = model(
            input_ids=torch.from_numpy(np.asarray(tokens, np.int64)), pixel_values=torch.tensor(pixels)[None],
            interpolate_pos_encoding=interpolate,
        )  # fmt: skip
    return output, as_detections(output)


def detect_by_query(model, pixels, query_pixels):
    """What transformers finds in one picture (3, R, R) that is like another one."""
    with torch.inference_mode():
        output = model.image_guided_detection(
            pixel_values=torch.tensor(pixels)[None], query_pixel_values=torch.tensor(query_pixels)[None]
        )
    return output, as_detections(output)
