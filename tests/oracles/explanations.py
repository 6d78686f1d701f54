"""Explanations by PyTorch's autograd on OpenAI's module, one plain function for each definition.

The towers are walked layer by layer with attention spelled out, because OpenAI's module keeps neither the
attention's probabilities nor other grids than it was trained for. A model from `double_reference` makes all
of it float64.

Sources: Grad-CAM (Selvaraju et al. 2017), Grad-CAM++ (Chattopadhay et al. 2018), LayerCAM (Jiang et al.
2021), HiResCAM (Draelos and Carin 2020), Eigen-CAM (Muhammad and Yeasin 2020), Score-CAM (Wang et al. 2020),
gScoreCAM (Chen et al. 2022), attention rollout (Abnar and Zuidema 2020), relevance (Chefer et al. 2021), CLIP
Surgery (Li et al. 2023), MaskCLIP (Zhou et al. 2022), SCLIP (Wang et al. 2023).

Letters: D embedding size, T tokens, C width, NH heads, HS head size, GH and GW rows and columns of the grid.
"""

import contextlib
import functools
import importlib
import importlib.metadata
import math
import re
import sys
import types
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import interpolate

from .clip_reference import OracleMissing, tokenize

CAM_METHODS = ("gradcam", "gradcam++", "layercam", "hirescam", "eigencam", "scorecam", "gscorecam")
ATTENTION_METHODS = ("rollout", "relevance")
DENSE_METHODS = ("surgery", "maskclip", "sclip")
EXPLANATION_METHODS = CAM_METHODS + ATTENTION_METHODS + DENSE_METHODS
NEEDS_NO_TEXT = ("eigencam", "rollout")
VIT_ONLY = ("rollout", "relevance", "sclip")

GSCORECAM_CHANNELS = 300
SURGERY_BLOCKS = 6
RESNET_SURGERY_SHARPNESS = 8
FEATURE_SURGERY_SHARPNESS = 2


# -- the towers, layer by layer ------------------------------------------------------------------------------


class TowerPass(NamedTuple):
    """What one pass through a tower leaves behind, all of it in autograd's graph.

    Attributes
    ----------
    features : tensor (N, D)
        Not scaled to unit norm.
    layers : dict
        ModifiedResNet: "layer3.1" to tensor (N, C, GH, GW), the output of each block. Transformer: block
        index to tensor (N, T, C), the output of the block's `ln_1`.
    attention : list of tensor (N, NH, T, T)
        The probabilities, block by block; empty for a ModifiedResNet.
    inputs : list of tensor (N, T, C)
        What each block of a transformer was given; empty for a ModifiedResNet.
    """

    features: torch.Tensor
    layers: dict
    attention: list
    inputs: list


def interpolated_positions(table, grid):
    """A positional embedding for another grid: the first row kept, the others interpolated.

    Parameters
    ----------
    table : tensor (1 + G * G, C)
    grid : (int, int)
        Rows and columns that are wanted.

    Returns
    -------
    tensor (1 + GH * GW, C)
    """
    side = math.isqrt(len(table) - 1)
    square = table[1:].T.reshape(1, -1, side, side)
    resized = interpolate(square, grid, mode="bicubic", align_corners=False)
    return torch.cat([table[:1], resized[0].flatten(1).T])


def split_heads(x, heads):
    """(..., T, C) to (..., NH, T, HS)."""
    return x.unflatten(-1, (heads, -1)).transpose(-3, -2)


def merge_heads(x):
    """(..., NH, T, HS) to (..., T, C)."""
    return x.transpose(-3, -2).flatten(-2)


def queries_keys_values(attn, x):
    """The three projections of a `MultiheadAttention`, each (..., NH, T, HS)."""
    projected = x @ attn.in_proj_weight.T + attn.in_proj_bias
    return [split_heads(part, attn.num_heads) for part in projected.chunk(3, dim=-1)]


def similarities(a, b, sharpness=1.0):
    """softmax(sharpness * HS^-0.5 * a b^T) over the last axis; a, b (..., NH, T, HS)."""
    return (sharpness * a.shape[-1] ** -0.5 * a @ b.transpose(-2, -1)).softmax(-1)


def run_blocks(blocks, x, mask=None):
    """Residual attention blocks one after another; x (N, T, C), mask (T, T) added before the softmax.

    Returns
    -------
    x : tensor (N, T, C)
    layers, attention, inputs
        As in `TowerPass`.
    """
    layers, attention, inputs = {}, [], []
    for index, block in enumerate(blocks):
        inputs.append(x)
        layers[index] = block.ln_1(x)
        q, k, v = queries_keys_values(block.attn, layers[index])
        logits = q.shape[-1] ** -0.5 * q @ k.transpose(-2, -1)
        attention.append((logits if mask is None else logits + mask).softmax(-1))
        x = x + block.attn.out_proj(merge_heads(attention[index] @ v))
        x = x + block.mlp(block.ln_2(x))
    return x, layers, attention, inputs


def text_pass(model, texts):
    """The text tower on all 77 positions under the causal mask.

    Parameters
    ----------
    texts : list of str
    """
    tokens = torch.from_numpy(tokenize(texts, model.context_length).astype(np.int64))
    x = model.token_embedding(tokens) + model.positional_embedding
    length = tokens.shape[1]
    mask = torch.full((length, length), -math.inf, dtype=x.dtype).triu(1)
    x, layers, attention, inputs = run_blocks(model.transformer.resblocks, x, mask)
    ends = model.ln_final(x)[torch.arange(len(tokens)), tokens.argmax(1)]
    return TowerPass(ends @ model.text_projection, layers, attention, inputs)


def image_pass(model, x):
    """The image tower on squares of any size that its patches, or 32, divide.

    Parameters
    ----------
    x : tensor (N, 3, R, R)
    """
    visual = model.visual
    if not model.architecture.is_vit:
        layers = stages(visual, x)
        return TowerPass(pooled(visual.attnpool, layers["layer4"])[:, 0], layers, [], [])
    x, layers, attention, inputs = run_blocks(visual.transformer.resblocks, embedded_patches(visual, x))
    return TowerPass(visual.ln_post(x[:, 0]) @ visual.proj, layers, attention, inputs)


def embedded_patches(visual, x):
    """What the first block of a vision transformer is given: (N, 1 + GH * GW, C)."""
    patches = visual.conv1(x)
    positions = interpolated_positions(visual.positional_embedding, patches.shape[2:])
    first = visual.class_embedding.expand(len(x), 1, -1)
    return visual.ln_pre(torch.cat([first, patches.flatten(2).transpose(1, 2)], dim=1) + positions)


def stages(visual, x):
    """The output of every block of a ModifiedResNet, "layer3" being another name for its last block's."""
    for number in (1, 2, 3):
        conv, bn = getattr(visual, f"conv{number}"), getattr(visual, f"bn{number}")
        x = bn(conv(x)).relu()
    x = visual.avgpool(x)
    layers = {}
    for stage in ("layer1", "layer2", "layer3", "layer4"):
        for index, block in enumerate(getattr(visual, stage)):
            x = layers[f"{stage}.{index}"] = block(x)
        layers[stage] = x
    return layers


def pool_tokens(pool, x):
    """The tokens that an attention pool works on, the mean first: (N, C, GH, GW) to (N, 1 + GH * GW, C)."""
    tokens = x.flatten(2).transpose(1, 2)
    tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], dim=1)
    return tokens + interpolated_positions(pool.positional_embedding, x.shape[2:])


def pooled(pool, x):
    """All rows of an attention pool, of which the model uses the first: (N, 1 + GH * GW, D)."""
    tokens = pool_tokens(pool, x)
    q, k, v = (split_heads(project(tokens), pool.num_heads)
               for project in (pool.q_proj, pool.k_proj, pool.v_proj))
    return pool.c_proj(merge_heads(similarities(q, k) @ v))


# -- scores --------------------------------------------------------------------------------------------------


def unit(x):
    """Scaled to unit norm along the last axis."""
    return x / x.norm(dim=-1, keepdim=True)


def score_of(model, v, t, score="logit", others=None):
    """The number that is explained.

    Parameters
    ----------
    v : tensor (..., D)
        Image features, or features of patches; not scaled to unit norm.
    t : tensor (D,)
        Features of the text, likewise.
    score : {"logit", "cosine", "dot", "probability"}
    others : tensor (K, D), optional
        For "probability", features of the labels that the text competes with.

    Returns
    -------
    tensor (...)
    """
    if score == "dot":
        return v @ t
    cosine = unit(v) @ unit(t)
    if score == "cosine":
        return cosine
    scale = model.logit_scale.exp()
    if score == "logit":
        return scale * cosine
    assert score == "probability", score
    competing = scale * unit(v) @ unit(others).T
    return torch.cat([scale * cosine[..., None], competing], dim=-1).softmax(-1)[..., 0]


class Query(NamedTuple):
    """Features of the texts that are explained, and of the labels they compete with for "probability"."""

    texts: torch.Tensor
    others: list


def query(model, texts, score, labels):
    """Encode texts and labels: a `Query` of tensors (N, D) and, for "probability", N times (K - 1, D)."""
    with torch.no_grad():
        features = text_pass(model, texts).features
        if score != "probability":
            return Query(features, [None] * len(texts))
        competing = text_pass(model, labels).features
    indices = [labels.index(text) for text in texts]
    return Query(features, [torch.cat([competing[:i], competing[i + 1:]]) for i in indices])


def scores_of(model, v, asked, score):
    """`score_of` for every text of a `Query`: a list of N tensors (...)."""
    return [score_of(model, v, t, score, others) for t, others in zip(asked.texts, asked.others)]


# -- class activation maps: A activations, G gradients, both (C, GH, GW) -------------------------------------


def gradcam(a, g):
    """sum_c mean(G_c) A_c."""
    return (g.mean((1, 2), keepdim=True) * a).sum(0)


def gradcam_plus_plus(a, g):
    """Equation 19 of the paper with Y = exp S, whose second and third derivatives are powers of G."""
    denominator = 2 * g**2 + g**3 * a.sum((1, 2), keepdim=True)
    alpha = torch.where(denominator == 0, 0, g**2 / torch.where(denominator == 0, 1, denominator))
    weights = (alpha * g.relu()).sum((1, 2), keepdim=True)
    return (weights * a).sum(0)


def gradcam_plus_plus_condition(a, g):
    """How many times larger the map's relative error can be than that of a and g.

    The denominator 2 + g sum(A) of a channel can come as close to zero as it likes where activations are
    negative (never behind a ReLU), and then float32 leaves little of the map.
    """
    alpha = torch.where(g == 0, 0, 1 / (2 + g * a.sum((1, 2), keepdim=True)))
    change = alpha**2 * g.relu() * g.abs() * a.abs().sum((1, 2), keepdim=True)
    bound = (change.sum((1, 2), keepdim=True) * a.abs()).sum(0)
    return float(bound.max() / gradcam_plus_plus(a, g).abs().max())


def layercam(a, g):
    """sum_c relu(G_c) A_c, element by element."""
    return (g.relu() * a).sum(0)


def hirescam(a, g):
    """sum_c G_c A_c, element by element."""
    return (g * a).sum(0)


def eigencam(a):
    """The projection of each position's channels on the first right singular vector, not centred."""
    rows = a.flatten(1).T
    _, _, vh = torch.linalg.svd(rows, full_matrices=False)
    projection = rows @ vh[0]
    return (projection if projection.sum() >= 0 else -projection).reshape(a.shape[1:])


GRADIENT_MAPS = {"gradcam": gradcam, "gradcam++": gradcam_plus_plus, "layercam": layercam,
                 "hirescam": hirescam}


def channel_masks(a, size):
    """Each channel enlarged to size x size and scaled to [0, 1]; a constant channel becomes zero."""
    large = interpolate(a[None], (size, size), mode="bilinear", align_corners=True)[0]
    low, high = large.amin((1, 2), keepdim=True), large.amax((1, 2), keepdim=True)
    return torch.where(high > low, (large - low) / torch.where(high > low, high - low, 1), 0)


def masked_features(model, x, masks, batch=64):
    """Image features of one picture (3, R, R) under each of the masks (K, R, R): (K, D)."""
    with torch.no_grad():
        return torch.cat([image_pass(model, x * part[:, None]).features for part in masks.split(batch)])


@torch.no_grad()
def scorecam(model, x, a, asked, score):
    """Channels weighted by the softmax of the scores that the picture keeps under them: (N, GH, GW)."""
    features = masked_features(model, x, channel_masks(a, x.shape[-1]))
    weights = torch.stack(scores_of(model, features, asked, score)).softmax(-1)
    return torch.einsum("nc,cij->nij", weights, a)


def gscorecam_channels(g, count=GSCORECAM_CHANNELS):
    """Indices of the channels with the largest mean gradient."""
    means = g.mean((1, 2))
    return means.argsort(descending=True)[:count]


@torch.no_grad()
def gscorecam(model, x, a, g, t):
    """Score-CAM of the channels that the gradient favours, by the logit; the others have the logit 0.

    Parameters
    ----------
    x : tensor (3, R, R)
    a, g : tensor (C, GH, GW)
    t : tensor (D,)

    Returns
    -------
    tensor (GH, GW)
    """
    chosen = gscorecam_channels(g)
    features = masked_features(model, x, channel_masks(a[chosen], x.shape[-1]))
    logits = torch.zeros(len(a), dtype=a.dtype)
    logits[chosen] = score_of(model, features, t, "logit")
    return torch.einsum("c,cij->ij", logits.softmax(0), a)


# -- attention maps: lists of tensors (NH, T, T) -------------------------------------------------------------


def rollout(attention):
    """The product over blocks of 0.5 A + 0.5 I, A averaged over heads: (T, T)."""
    result = torch.eye(attention[0].shape[-1], dtype=attention[0].dtype)
    for probabilities in attention:
        mean = probabilities.mean(0)
        result = (0.5 * mean + 0.5 * torch.eye(len(mean), dtype=mean.dtype)) @ result
    return result


def relevance(attention, gradients):
    """R = I, then R <- R + mean over heads of relu(dS/dA * A) @ R, block by block: (T, T)."""
    result = torch.eye(attention[0].shape[-1], dtype=attention[0].dtype)
    for probabilities, gradient in zip(attention, gradients):
        result = result + (gradient * probabilities).relu().mean(0) @ result
    return result


# -- dense features ------------------------------------------------------------------------------------------


def last_block_features(model, x, mix):
    """Features (1 + GH * GW, D) of every token when the last block mixes values otherwise.

    Parameters
    ----------
    x : tensor (3, R, R)
    mix : callable
        From q, k, v, each (NH, T, HS), to what takes the place of the attention's result.
    """
    visual = model.visual
    done = image_pass(model, x[None])
    block = visual.transformer.resblocks[-1]
    q, k, v = queries_keys_values(block.attn, done.layers[len(done.layers) - 1][0])
    tokens = done.inputs[-1][0] + block.attn.out_proj(merge_heads(mix(q, k, v)))
    tokens = tokens + block.mlp(block.ln_2(tokens))
    return visual.ln_post(tokens) @ visual.proj


def maskclip_features(model, x):
    """Features of the patches (GH * GW, D): each position keeps its own value."""
    if model.architecture.is_vit:
        return last_block_features(model, x, lambda q, k, v: v)[1:]
    pool = model.visual.attnpool
    return pool.c_proj(pool.v_proj(stages(model.visual, x[None])["layer4"][0].flatten(1).T))


def sclip_features(model, x):
    """Features of the patches (GH * GW, D): values mixed by q-q and by k-k similarity."""
    return last_block_features(model, x, lambda q, k, v: (similarities(q, q) + similarities(k, k)) @ v)[1:]


def surgery_features(model, x):
    """Unit features (1 + GH * GW, D): the class token's from the model, the patches' from the second path."""
    visual = model.visual
    if not model.architecture.is_vit:
        pool, last = visual.attnpool, stages(visual, x[None])["layer4"]
        v = split_heads(pool.v_proj(pool_tokens(pool, last)), pool.num_heads)
        second = pool.c_proj(merge_heads(similarities(unit(v), unit(v), RESNET_SURGERY_SHARPNESS) @ v))[0]
        original = pooled(pool, last)[0]
        return unit(torch.cat([original[:1], second[1:]]))
    done = image_pass(model, x[None])
    blocks = visual.transformer.resblocks
    begin = max(0, len(blocks) - SURGERY_BLOCKS)
    second = done.inputs[begin][0]
    for index in range(begin, len(blocks)):
        attn = blocks[index].attn
        _, _, v = queries_keys_values(attn, done.layers[index][0])
        second = second + attn.out_proj(merge_heads(similarities(v, v) @ v))
    patches = visual.ln_post(second[1:]) @ visual.proj
    return unit(torch.cat([done.features, patches]))


def feature_surgery(f, t):
    """Cosines freed from what all texts share.

    Parameters
    ----------
    f : tensor (1 + P, D)
        Unit features, the class token's first.
    t : tensor (N, D)
        Unit features of at least two texts.

    Returns
    -------
    tensor (N, P)
    """
    p = (FEATURE_SURGERY_SHARPNESS * f[0] @ t.T).softmax(0)
    w = p / p.mean()
    products = w[None, :, None] * f[1:, None, :] * t[None, :, :]
    return (products - products.mean(1, keepdim=True)).sum(-1).T


def feature_surgery_of_one(f, t, t_empty):
    """Cosines above those of a text that says nothing: f (1 + P, D), t and t_empty (D,) to (P,)."""
    return f[1:] @ (t - t_empty)


def empty_text(model, templates):
    """The prompt ensemble of "": the unit mean of the templates' unit features, (D,)."""
    features = text_pass(model, [template.replace("{}", "") for template in templates]).features
    return unit(unit(features).mean(0))


# -- raw maps ------------------------------------------------------------------------------------------------


def layer_name(model, layer=None):
    """The key of a target layer in `TowerPass.layers`; by default the last."""
    if not model.architecture.is_vit:
        return "layer4" if layer is None else layer
    blocks = model.architecture.vision_layers
    layer = -1 if layer is None else layer
    return layer + blocks if layer < 0 else layer


def as_grid(tokens):
    """Tokens without the class token on their square grid: (1 + GH * GW, C) to (C, GH, GW)."""
    side = math.isqrt(len(tokens) - 1)
    return tokens[1:].T.unflatten(1, (side, side))


def activations_and_gradients(model, x, texts, layer=None, score="logit", labels=None):
    """A and, for each text, G = dS/dA at a target layer.

    Parameters
    ----------
    model : torch.nn.Module
        From `build_reference` or `double_reference`.
    x : array (3, R, R)
        A preprocessed picture.
    texts : list of str
    layer : str or int, optional
        As `clipc.Model.grad_cam` takes it.
    score, labels
        See `score_of`; labels are str.

    Returns
    -------
    a : tensor (C, GH, GW)
    g : tensor (N, C, GH, GW)
    """
    done = image_pass(model, picture(model, x)[None])
    target = done.layers[layer_name(model, layer)]
    scores = scores_of(model, done.features[0], query(model, texts, score, labels), score)
    gradients = [torch.autograd.grad(s, target, retain_graph=True)[0][0] for s in scores]
    if model.architecture.is_vit:
        return as_grid(target[0].detach()), torch.stack([as_grid(g) for g in gradients])
    return target[0].detach(), torch.stack(gradients)


def picture(model, x):
    """A preprocessed picture as a tensor of the model's dtype."""
    return torch.tensor(x, dtype=model.logit_scale.dtype)


def raw_maps(model, x, texts, method="gradcam", *, layer=None, score="logit", labels=None, blocks="all",
             empty_templates=None):
    """Signed maps on the grid: what `clipc.Model.grad_cam(..., raw=True)` has to give.

    Parameters
    ----------
    x : array (3, R, R)
        A preprocessed picture.
    texts : list of str
    method : str
        One of `EXPLANATION_METHODS`.
    blocks : {"all", "last"}
        For "relevance".
    empty_templates : sequence of str
        Templates of the text that says nothing, for "surgery" of a single text.
    model, layer, score, labels
        See `activations_and_gradients`.

    Returns
    -------
    array (N, GH, GW), or (GH, GW) for a method without text
    """
    if method in GRADIENT_MAPS:
        a, g = activations_and_gradients(model, x, texts, layer, score, labels)
        return torch.stack([GRADIENT_MAPS[method](a, one) for one in g]).numpy()
    if method == "eigencam":
        return eigencam(activations(model, x, layer)).numpy()
    if method == "scorecam":
        asked = query(model, texts, score, labels)
        return scorecam(model, picture(model, x), activations(model, x, layer), asked, score).numpy()
    if method == "gscorecam":
        a, g = activations_and_gradients(model, x, texts, layer, score, labels)
        t = query(model, texts, "logit", None).texts
        return np.stack([gscorecam(model, picture(model, x), a, *pair).numpy() for pair in zip(g, t)])
    if method == "rollout":
        with torch.no_grad():
            done = image_pass(model, picture(model, x)[None])
        return as_grid(rollout([a[0] for a in done.attention])[0][:, None])[0].numpy()
    if method == "relevance":
        matrices = image_relevance(model, x, texts, score, labels, blocks)
        return np.stack([as_grid(matrix[0][:, None])[0].numpy() for matrix in matrices])
    assert method in DENSE_METHODS, method
    with torch.no_grad():
        maps = dense_maps(model, picture(model, x), texts, method, score, labels, empty_templates)
    side = math.isqrt(maps.shape[1])
    return maps.reshape(len(maps), side, side).numpy()


def activations(model, x, layer=None):
    """A at a target layer, (C, GH, GW)."""
    with torch.no_grad():
        target = image_pass(model, picture(model, x)[None]).layers[layer_name(model, layer)][0]
    return as_grid(target) if model.architecture.is_vit else target


def image_relevance(model, x, texts, score="logit", labels=None, blocks="all"):
    """`relevance` of the image tower, one (T, T) for each text."""
    done = image_pass(model, picture(model, x)[None])
    scores = scores_of(model, done.features[0], query(model, texts, score, labels), score)
    return [relevance_of(s, done.attention, 0, blocks) for s in scores]


def text_relevance(model, x, text, score="logit", labels=None, blocks="all"):
    """Relevance of the tokens between start and end of a text, R[EOT, 1:EOT].

    Returns
    -------
    tokens : list of int
    values : array (len(tokens),)
    """
    with torch.no_grad():
        v = image_pass(model, picture(model, x)[None]).features[0]
    others = query(model, [text], score, labels).others[0]
    done = text_pass(model, [text])
    matrix = relevance_of(score_of(model, v, done.features[0], score, others), done.attention, 0, blocks)
    ids = tokenize([text], model.context_length)[0]
    end = int(ids.argmax())
    return ids[1:end].tolist(), matrix[end, 1:end].numpy()


def relevance_of(score, attention, row, blocks):
    """`relevance` of one number for one row of a batch."""
    used = attention if blocks == "all" else attention[-1:]
    gradients = torch.autograd.grad(score, used, retain_graph=True)
    return relevance([a[row].detach() for a in used], [g[row] for g in gradients])


def dense_maps(model, x, texts, method, score, labels, empty_templates):
    """Maps (N, GH * GW) of the methods that give every patch a feature."""
    if method != "surgery":
        f = {"maskclip": maskclip_features, "sclip": sclip_features}[method](model, x)
        return torch.stack(scores_of(model, f, query(model, texts, score, labels), score))
    assert score in ("logit", "cosine"), score
    compared = texts if labels is None else labels
    f, t = surgery_features(model, x), unit(text_pass(model, compared).features)
    if len(compared) > 1:
        maps = feature_surgery(f, t)[[compared.index(text) for text in texts]]
    else:
        maps = feature_surgery_of_one(f, t[0], empty_text(model, empty_templates))[None]
    return model.logit_scale.exp() * maps if score == "logit" else maps


# -- maps on the picture -------------------------------------------------------------------------------------


def min_max(grid):
    """ReLU, then the smallest value to 0 and the largest to 1; a map without any difference becomes 0."""
    positive = np.maximum(np.asarray(grid, np.float64), 0)
    low, high = positive.min(), positive.max()
    return (positive - low) / (high - low) if high > low else np.zeros_like(positive)


def placed(grid, box, height, width):
    """A grid enlarged onto a rectangle of a picture, bilinearly with half-pixel centres.

    Parameters
    ----------
    grid : array (GH, GW)
    box : (x0, y0, x1, y1)
        What the grid covers, in pixels of the picture; it may reach beyond the picture.
    height, width : int
        Of the picture.

    Returns
    -------
    float64 array (height, width)
        0 where a pixel's centre lies outside of the box, NaN where it lies on its edge.
    """
    rows, columns = grid.shape
    x0, y0, x1, y1 = box
    result = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            x, y = j + 0.5, i + 0.5
            if min(abs(x - x0), abs(x - x1), abs(y - y0), abs(y - y1)) < 1e-9:
                result[i, j] = np.nan
            elif x0 < x < x1 and y0 < y < y1:
                u = min(max((x - x0) / (x1 - x0) * columns - 0.5, 0), columns - 1)
                v = min(max((y - y0) / (y1 - y0) * rows - 0.5, 0), rows - 1)
                left, top = min(int(u), max(columns - 2, 0)), min(int(v), max(rows - 2, 0))
                right, bottom = min(left + 1, columns - 1), min(top + 1, rows - 1)
                du, dv = u - left, v - top
                upper = (1 - du) * grid[top, left] + du * grid[top, right]
                lower = (1 - du) * grid[bottom, left] + du * grid[bottom, right]
                result[i, j] = (1 - dv) * upper + dv * lower
    return result


def word_scores(tokens, values, tokenizer):
    """Scores of tokens added up to words, a word ending with the token that "</w>" ends.

    Returns
    -------
    list of (str, float)
    """
    words, word, total = [], "", 0.0
    for token, value in zip(tokens, values):
        word, total = word + tokenizer.decoder[token], total + float(value)
        if word.endswith("</w>"):
            raw = bytes(tokenizer.byte_decoder[character] for character in re.sub("</w>$", "", word))
            words.append((raw.decode("utf-8"), total))
            word, total = "", 0.0
    return words


# -- kinks ---------------------------------------------------------------------------------------------------


def kinks(model, x, within=2e-5):
    """Where a ModifiedResNet's gradient hangs on a rounding error.

    A ReLU's gradient jumps at zero. Of the millions of activations of a picture a few are so near to it that
    float32 may find them on the other side; which, differs from one order of summation to the next.

    Parameters
    ----------
    x : array (3, R, R)
    within : float
        How near, as a share of the root mean square of the same layer's activations.

    Returns
    -------
    list of (str, int)
        Names of ReLUs, and positions in their flattened input.
    """
    found = []

    def look(name, module, inputs):
        near = inputs[0].abs() < within * inputs[0].square().mean().sqrt()
        found.extend((name, position) for position in near.flatten().nonzero()[:, 0].tolist())

    handles = [module.register_forward_pre_hook(functools.partial(look, name))
               for name, module in rectifiers(model).items()]
    with torch.no_grad():
        image_pass(model, picture(model, x)[None])
    for handle in handles:
        handle.remove()
    return found


def rectifiers(model):
    """The ReLUs of the residual blocks, by name; a vision transformer has none."""
    return {name: module for name, module in model.visual.named_modules()
            if isinstance(module, torch.nn.ReLU) and name.startswith("layer")}


@contextlib.contextmanager
def flipped(model, positions):
    """Meanwhile the gradients at these `kinks` are 1 where they were 0, and 0 where they were 1."""
    by_name = {}
    for name, position in positions:
        by_name.setdefault(name, []).append(position)
    modules, handles, extra = rectifiers(model), [], {}

    def before(name, module, inputs):
        values = inputs[0].flatten()[by_name[name]]
        # Adds nothing but its gradient.
        extra[name] = torch.where(values > 0, -1, 1) * (values - values.detach())

    def after(name, module, inputs, output):
        index = torch.tensor(by_name[name])
        return output.flatten().index_add(0, index, extra[name]).reshape(output.shape)

    for name in by_name:
        handles.append(modules[name].register_forward_pre_hook(functools.partial(before, name)))
        handles.append(modules[name].register_forward_hook(functools.partial(after, name)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def kinks_as_in(found, model, x, compute, within=2e-5):
    """Those `kinks` that have to be flipped for a map to be as it was found, by matching pursuit.

    Parameters
    ----------
    found : array
    compute : callable
        From a picture to what was found, by this model.

    Returns
    -------
    flips : list
        For `flipped`.
    maps : array
        By `compute`, with these flips.
    """
    candidates, base, flips = kinks(model, x, within), compute(x), []
    changes = []
    for kink in candidates:
        with flipped(model, [kink]):
            changes.append(compute(x) - base)
    rest = found - base
    for _ in candidates:
        gains = [(rest**2).sum() - ((rest - change) ** 2).sum() for change in changes]
        best = int(np.argmax(gains))
        if gains[best] <= 0:
            break
        rest, flips = rest - changes[best], [*flips, candidates[best]]
        changes[best] = np.zeros_like(base)
    with flipped(model, flips):
        return flips, compute(x)


# -- the package grad-cam ------------------------------------------------------------------------------------

# Imported by the package at the start and used for pictures, for augmentation and for methods that are not
# asked for here. Empty modules in their places let `pip install --no-deps grad-cam` be enough.
UNUSED_BY_GRAD_CAM = (
    "cv2", "matplotlib", "matplotlib.pyplot", "matplotlib.lines", "scipy", "scipy.ndimage", "scipy.sparse",
    "scipy.sparse.linalg", "sklearn", "sklearn.decomposition", "torchvision", "torchvision.transforms",
    "torchvision.transforms.functional", "ttach",
)
PACKAGE_CLASSES = {"gradcam": "GradCAM", "gradcam++": "GradCAMPlusPlus", "layercam": "LayerCAM",
                   "hirescam": "HiResCAM", "eigencam": "EigenCAM", "scorecam": "ScoreCAM"}


class _Empty(types.ModuleType):
    """A module that has every name."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {"__init__": lambda self, *_, **__: None})


@functools.cache
def grad_cam_package():
    """Import `pytorch_grad_cam`, with empty modules for what it imports without need here.

    Raises
    ------
    OracleMissing
    """
    try:
        importlib.metadata.distribution("grad-cam")
    except importlib.metadata.PackageNotFoundError:
        raise OracleMissing("grad-cam is not installed: pip install --no-deps grad-cam") from None
    kept = {name: sys.modules[name] for name in UNUSED_BY_GRAD_CAM if name in sys.modules}
    sys.modules.update({name: _Empty(name) for name in UNUSED_BY_GRAD_CAM})
    try:
        return importlib.import_module("pytorch_grad_cam")
    finally:
        for name in UNUSED_BY_GRAD_CAM:
            del sys.modules[name]
        sys.modules.update(kept)


def package_map(model, x, text, method="gradcam", *, layer=None, score="logit", factor=1.0):
    """The map of the package `grad-cam` for the same layer and score.

    Parameters
    ----------
    model, x, text, layer, score
        See `activations_and_gradients`; a single text, and not "probability".
    method : str
        One of `PACKAGE_CLASSES`.
    factor : float
        The score is multiplied by it.

    Returns
    -------
    signed : array (GH, GW)
        Before its ReLU.
    scaled : array (GH, GW)
        Its answer on the grid, between 0 and 1.
    """
    base = getattr(grad_cam_package(), PACKAGE_CLASSES[method])

    class OnTheGrid(base):
        def get_cam_image(self, *arguments):
            self.signed = super().get_cam_image(*arguments)
            return self.signed

        def get_target_width_height(self, input_tensor):
            return None  # no resizing

    visual, key, reshape = model.visual, layer_name(model, layer), None
    if model.architecture.is_vit:
        target = visual.transformer.resblocks[key].ln_1

        def reshape(tokens):  # OpenAI's blocks have the batch second.
            return torch.stack([as_grid(row) for row in tokens.transpose(0, 1)])
    else:
        target = visual.get_submodule(key)
    with torch.no_grad():
        t = text_pass(model, [text]).features[0]
    with OnTheGrid(visual, [target], reshape) as cam:
        pictures = picture(model, x)[None]
        answer = cam(pictures, [lambda v: factor * score_of(model, v, t, score)])
        return cam.signed[0], answer[0]
