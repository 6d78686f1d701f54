"""Hugging Face's implementation as a second reference, independent of OpenAI's code."""

import numpy as np
import torch

from .clip_reference import Features


def load_transformers(folder):
    """Load a folder from `layouts.save_huggingface` in float32, and insist that every tensor was used.

    Returns
    -------
    transformers.CLIPModel
    """
    from transformers import CLIPModel

    # "eager" spells attention out; the default would call the same fused kernel as OpenAI's code does.
    model, report = CLIPModel.from_pretrained(
        str(folder), dtype=torch.float32, attn_implementation="eager", local_files_only=True,
        output_loading_info=True)
    problems = {kind: found for kind, found in report.items() if found}
    if problems:
        raise ValueError(f"transformers could not use all tensors of {folder}: {problems}")
    return model.eval()


def transformers_image_features(model, x):
    """Image features of preprocessed images (N, 3, R, R)."""
    with torch.inference_mode():
        pooled = model.vision_model(pixel_values=torch.tensor(x)).pooler_output
        return _features(model.visual_projection(pooled))


def transformers_text_features(model, tokens):
    """Text features of token ids (N, 77)."""
    with torch.inference_mode():
        ids = torch.as_tensor(np.asarray(tokens, dtype=np.int64))
        return _features(model.text_projection(model.text_model(input_ids=ids).pooler_output))


def _features(raw):
    unit = raw / raw.norm(dim=-1, keepdim=True)
    return Features(unit.numpy(), raw.numpy())
