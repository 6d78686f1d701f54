"""``clipc info``: this computer, or a model."""

from __future__ import annotations

import math

import click

import clipc
from clipc.cli.options import complete_model, debug_option, json_option
from clipc.cli.printing import print_json, printable
from clipc.terminal import columns, pad


# fmt: off
@click.command()
@click.argument("model", required=False, metavar="[FILE_OR_NAME]", shell_complete=complete_model)
@json_option
@debug_option
def info(model, as_json):
    """Describe this computer, or a model.

    Without an argument: versions, processor, threads, folders. With a weight file, a folder or a name: the
    architecture and how it is stored. Only the head of the file is read, so large files take no longer.

    \b
      clipc info
      clipc info tiny
      clipc info model.safetensors --json
      clipc info ViT-B-32.pt
    """
    if model is None:
        if as_json:
            print_json(clipc.show_config(mode="dicts"))
        else:
            _print_facts(clipc.show_config(mode="dicts"))
        return
    facts = _model_facts(model)
    if as_json:
        print_json(facts)
    else:
        _print_facts(_in_words(facts))
# fmt: on


def _model_facts(name):
    """What the head of a weight file and the configuration beside it tell."""
    import dataclasses

    from clipc import weights

    config, state = weights.open_model(name, may_download=False)
    with state:
        stored = {}
        for tensor, dtype in state.dtypes.items():
            entry = stored.setdefault(dtype, {"tensors": 0, "numbers": 0})
            entry["tensors"] += 1
            entry["numbers"] += math.prod(state.shapes[tensor])
        return {
            **dataclasses.asdict(config),
            "file": str(state.path),
            "layout": state.layout,
            "parameters": sum(entry["numbers"] for entry in stored.values()),
            "stored_as": stored,
        }


_DTYPE_NAMES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
_LAYOUT_NAMES = {"openai": "OpenAI's", "openclip": "OpenCLIP's", "huggingface": "Hugging Face's"}


def _in_words(facts):
    """The lines that `info` prints for a model: title to text."""
    origin = {key: f" (from: {source})" for key, source in facts["sources"].items()}
    if facts["vision"] == "vit":
        patch = facts["vision_patch_size"]
        tower = (
            f"vision transformer, {facts['vision_layers']} blocks of width {facts['vision_width']}, "
            f"MLP {facts['vision_mlp_width']}, patches of {patch} x {patch} pixels"
        )
    else:
        blocks = "-".join(map(str, facts["vision_layers"]))
        tower = f"ModifiedResNet, {blocks} blocks, width {facts['vision_width']}, attention pool"
    stored = ", ".join(
        f"{entry['tensors']} in {_DTYPE_NAMES.get(dtype, dtype)} ({entry['numbers']:,} numbers)"
        for dtype, entry in facts["stored_as"].items()
    )
    mean, deviation = (", ".join(f"{v:.4g}" for v in facts[key]) for key in ("image_mean", "image_std"))
    return {
        "name": facts["name"],
        "file": facts["file"],
        "tensor names": _LAYOUT_NAMES[facts["layout"]],
        "parameters": f"{facts['parameters']:,}",
        "tensors": stored,
        "embedding": f"{facts['embed_dim']} numbers for an image or a text",
        "image": f"{facts['image_size']} x {facts['image_size']} pixels",
        "image tower": tower,
        "detection head": {"owlvit": "OWL-ViT", "owlv2": "OWLv2"}.get(facts["detector"], "none"),
        "image heads": f"{facts['vision_heads']}{origin.get('vision_heads', '')}",
        "text": f"up to {facts['context_length']} tokens, vocabulary of {facts['vocab_size']:,}",
        "text tower": (
            f"transformer, {facts['text_layers']} blocks of width {facts['text_width']}, "
            f"MLP {facts['text_mlp_width']}"
        ),
        "text heads": f"{facts['text_heads']}{origin.get('text_heads', '')}",
        "activation": f"{facts['activation']}{origin.get('activation', '')}",
        "pixel mean": f"{mean}{origin.get('preprocessing', '')}",
        "pixel deviation": deviation,
    }


def _print_facts(facts):
    width = max(map(columns, facts))
    for title, text in facts.items():
        click.echo(f"{pad(title, width)}  {printable(str(text))}")
