"""``python -m clipc.verify [NAME ...]``: whether clipc gives with real weights what it should.

For each model, by default OpenAI's nine: downloads it or takes it from the cache, hashes it, compares its
sizes and the number of its parameters with the zoo, loads it, compares its answers with published ones, and
its features with a reference implementation in PyTorch, openai/CLIP or transformers, where one is installed.
Prints a table; exit code 0 if nothing differs.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import click
import numpy as np

from clipc import tokenizer
from clipc.errors import ClipcError
from clipc.model import load
from clipc.terminal import columns, pad
from clipc.weights import cache, download, open_model
from clipc.weights.layouts import HF_BLOCK, HF_NAMES
from clipc.weights.zoo import find_model, named_models

# The figure of openai/CLIP's README; not shipped, because it is theirs.
CLIP_PNG = "https://raw.githubusercontent.com/openai/CLIP/main/CLIP.png"

# openai/CLIP, README, "Usage": probabilities of ViT-B/32 for its figure.
PUBLISHED = {"ViT-B/32": {"a diagram": 0.9927937, "a dog": 0.00421068, "a cat": 0.00299572}}
PUBLISHED_TOLERANCE = 1e-3

# Largest error of a component of a unit feature.
FEATURE_TOLERANCE = 2e-5
TEXTS = ("a diagram", "a dog", "a photo of a cat, sitting on a sofa")

# What is no parameter, though it is a tensor: statistics of BatchNorm.
BUFFERS = ("running_mean", "running_var")


class Check(NamedTuple):
    """One comparison. `good`: None where it could not be made."""

    what: str
    good: bool | None
    detail: str


def verify_model(name, picture=None, why_no_picture="no picture was given", reference=True):
    """Make all comparisons for one model.

    Parameters
    ----------
    name : str
        As `clipc.load` takes it, but no path.
    picture : str or os.PathLike, optional
        openai/CLIP's CLIP.png.
    why_no_picture : str
        Said where a published result needs it.
    reference : bool
        Whether to compare with PyTorch.

    Returns
    -------
    list of Check
    """
    entry = find_model(name)
    checks = []
    try:
        path = cache.cached_weights(entry) or cache.fetch(entry)
        checks += _hashes(entry)
        checks += _sizes(entry)
        model = load(entry)
    except (OSError, ClipcError) as error:
        return [*checks, Check("load", False, str(error))]
    checks.append(Check("load", True, f"{path.name}: {model.config.summary().partition(': ')[2]}"))
    checks += _published(model, PUBLISHED.get(entry.name), picture, why_no_picture)
    if reference:
        checks.append(_reference(model, entry))
    return checks


def _hashes(entry):
    return [Check("SHA-256", good, f"{path.name}: {detail}") for path, good, detail in cache.verify(entry)]


def _sizes(entry):
    """Sizes, heads, activation and parameters of the file, against the zoo."""
    config, state = open_model(entry)
    with state:
        shapes = {name: shape for name, shape in state.shapes.items() if not name.endswith(BUFFERS)}
    found = {
        "embed_dim": config.embed_dim, "image_size": config.image_size, "vision_heads": config.vision_heads,
        "text_heads": config.text_heads, "activation": config.activation,
        "image_mean": config.image_mean, "image_std": config.image_std,
    }  # fmt: skip
    known = {key: getattr(entry, key) for key in found if getattr(entry, key) is not None}
    wrong = [f"{key} is {found[key]}, not {value}" for key, value in known.items() if found[key] != value]
    checks = []
    if known:
        same = ", ".join(f"{key} {value}" for key, value in known.items())
        checks.append(Check("sizes", not wrong, "; ".join(wrong) or same))
    count = sum(int(np.prod(shape, dtype=np.int64)) for shape in shapes.values())
    if entry.parameters_millions is not None:
        # Published with one or two digits behind the point.
        close = abs(count / 1e6 - entry.parameters_millions) <= 0.051
        detail = f"{count:,}, published as {entry.parameters_millions} million"
        checks.append(Check("parameters", close, detail))
    return checks


def _published(model, expected, picture, why_not):
    if not expected:
        return []
    if picture is None:
        return [Check("published", None, f"left out: {why_not}")]
    try:
        found = model.classify(picture, list(expected))
    except (OSError, ClipcError) as error:
        return [Check("published", None, f"left out: {error}")]
    worst = max(abs(float(found[label] - value)) for label, value in expected.items())
    detail = ", ".join(f"{label!r} {found[label]:.5f} ({value:.5f})" for label, value in expected.items())
    return [Check("published", worst <= PUBLISHED_TOLERANCE, detail)]


# -- PyTorch -----------------------------------------------------------------------------------------------


def _reference(model, entry):
    """Features of a picture and some texts, against the first implementation that can hold this model."""
    config = model.config
    if config.vocab_size != tokenizer.VOCAB_SIZE:
        return Check("reference", None, "left out: another vocabulary")
    if config.detector:
        return Check("reference", None, "left out: a detector; its features are compared in the tests")
    pixels = model.preprocess(_test_picture())
    tokens = tokenizer.tokenize(list(TEXTS), context_length=config.context_length)
    reasons = []
    for name, features_of in (("clip", _features_of_clip), ("transformers", _features_of_transformers)):
        try:
            theirs = features_of(model, entry, pixels, tokens)
        except (ImportError, RuntimeError, _NotThisModel) as error:
            reasons.append(f"{name}: {error}")
            continue
        ours = model.encode_image(pixels, normalize=True), model.encode_text(tokens, normalize=True)
        worst = max(float(np.abs(_units(a) - b).max()) for a, b in zip(theirs, ours))
        return Check("reference", worst <= FEATURE_TOLERANCE, f"{name}: largest difference {worst:.1e}")
    return Check("reference", None, f"left out: {'; '.join(reasons)}"[:300])


class _NotThisModel(Exception):
    pass


def _test_picture():
    """Smooth colours with some edges; any picture does, as long as both see the same."""
    y, x = np.mgrid[0:240, 0:320] / 40
    waves = [np.sin(x * a + y * b + c) for a, b, c in ((1, 2, 0), (2, -1, 1), (-1, 1, 2))]
    picture = np.uint8(127 * (1 + np.stack(waves, axis=-1)))
    picture[60:120, 100:180] = 255 - picture[60:120, 100:180]
    return picture


def _units(features):
    features = np.asarray(features, np.float64)
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def _read_all(model):
    """All tensors under OpenAI's names, as PyTorch's."""
    import torch

    known_as = model.config.name if model.config.name in named_models() else None
    _, state = open_model(model.path, known_as=known_as)
    with state:
        result = {}
        for name in state.names:
            array = state.read(name)
            if state.dtypes[name] == "BF16":
                array = np.left_shift(array.astype(np.uint32), 16).view(np.float32)
            result[name] = torch.from_numpy(np.array(array, np.float32))
    return result


def _features_of_clip(model, entry, pixels, tokens):
    """openai/CLIP's own code: QuickGELU, heads 64 wide, and weights that float16 can hold."""
    if entry.family != "OpenAI":
        raise _NotThisModel("not for this model")
    import torch
    from clip.model import build_model

    reference = build_model(_read_all(model)).float().eval()
    with torch.no_grad():
        images = reference.encode_image(torch.from_numpy(pixels))
        texts = reference.encode_text(torch.from_numpy(np.array(tokens, np.int64)))
    return images.numpy(), texts.numpy()


def _features_of_transformers(model, entry, pixels, tokens):
    """transformers' CLIPModel, which has no ModifiedResNet."""
    config = model.config
    if config.vision != "vit":
        raise _NotThisModel("it has no ModifiedResNet")
    import torch
    from transformers import CLIPConfig, CLIPModel

    act = config.activation
    theirs = CLIPConfig(
        vision_config={
            "hidden_size": config.vision_width, "intermediate_size": config.vision_mlp_width,
            "num_hidden_layers": config.vision_layers, "num_attention_heads": config.vision_heads,
            "image_size": config.image_size, "patch_size": config.vision_patch_size, "hidden_act": act,
        },
        text_config={
            "hidden_size": config.text_width, "intermediate_size": config.text_mlp_width,
            "num_hidden_layers": config.text_layers, "num_attention_heads": config.text_heads,
            "max_position_embeddings": config.context_length, "vocab_size": config.vocab_size,
            "hidden_act": act, "eos_token_id": 2,
        },
        projection_dim=config.embed_dim,
    )  # fmt: skip
    reference = CLIPModel(theirs).eval()
    absent, strange = reference.load_state_dict(_hugging_face_names(_read_all(model)), strict=False)
    absent = [name for name in absent if not name.endswith("position_ids")]
    if absent or strange:
        raise _NotThisModel(f"its names differ: {', '.join([*absent, *strange][:3])}")
    with torch.no_grad():
        vision = reference.vision_model(pixel_values=torch.from_numpy(pixels)).pooler_output
        text = reference.text_model(input_ids=torch.from_numpy(np.array(tokens, np.int64))).pooler_output
        return reference.visual_projection(vision).numpy(), reference.text_projection(text).numpy()


def _hugging_face_names(state):
    """Tensors under Hugging Face's names: query, key and value apart, projections transposed."""
    names = {ours: theirs for theirs, ours in HF_NAMES.items()}
    inside = {ours: theirs for theirs, ours in HF_BLOCK.items()}
    result = {}
    for name, tensor in state.items():
        if name in names:
            transposed = name in ("visual.proj", "text_projection")
            result[names[name]] = tensor.T.contiguous() if transposed else tensor
            continue
        tower, _, rest = name.partition("transformer.resblocks.")
        number, _, rest = rest.partition(".")
        start = f"{'vision_model' if tower else 'text_model'}.encoder.layers.{number}"
        if rest.startswith("attn.in_proj_"):
            for letter, part in zip("qkv", tensor.chunk(3)):
                result[f"{start}.self_attn.{letter}_proj.{rest.removeprefix('attn.in_proj_')}"] = part
        else:
            module, _, kind = rest.rpartition(".")
            result[f"{start}.{inside[module]}.{kind}"] = tensor
    return result


# -- the program -------------------------------------------------------------------------------------------


def fetch_picture():
    """CLIP.png, from the cache or the network.

    Returns
    -------
    path : pathlib.Path or None
    why_not : str
        The reason where there is none.
    """
    target = cache.cache_folder() / "verify" / "CLIP.png"
    if target.is_file():
        return target, ""
    if download.offline():
        return None, "CLIP.png is not in the cache, and CLIPC_OFFLINE is set"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        download.download(download.look(CLIP_PNG), target)
    except OSError as error:
        return None, f"CLIP.png cannot be downloaded: {error}"
    return target, ""


_RESULTS = {True: "good", False: "DIFFERS", None: "-"}


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--image", type=click.Path(exists=True, dir_okay=False), metavar="FILE",
              help="openai/CLIP's CLIP.png, instead of downloading it.")
@click.option("--no-reference", is_flag=True, help="Do not compare with PyTorch.")
def main(names, image, no_reference):
    """Download models, or take them from the cache, and compare what clipc computes with what it should.

    Without NAME: OpenAI's nine models, 5.6 GB. Results are published ones, and those of openai/CLIP or
    transformers where PyTorch and one of them is installed.
    """  # fmt: skip
    names = names or [name for name, entry in named_models().items() if entry.family == "OpenAI"]
    for name in names:
        try:
            find_model(name)
        except ValueError as error:
            raise click.UsageError(str(error)) from None
    picture, why_not = (Path(image), "") if image else (None, "")
    if picture is None and any(find_model(name).name in PUBLISHED for name in names):
        picture, why_not = fetch_picture()
    width = max(columns(name) for name in names)
    failed = []
    for name in names:
        for check in verify_model(name, picture, why_not, reference=not no_reference):
            cells = pad(name, width), pad(check.what, 10), pad(_RESULTS[check.good], 7), check.detail
            click.echo("  ".join(cells))
            if check.good is not None and not check.good:
                failed.append(name)
    failed = list(dict.fromkeys(failed))
    total = f"{len(names)} model{'s' if len(names) > 1 else ''}"
    click.echo(f"{total}: {f'not as it should be: {chr(44).join(failed)}' if failed else 'nothing differs'}")
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
