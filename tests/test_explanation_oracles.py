"""The oracles of explanations against other computations of the same.

OpenAI's module with hooks or changed weights, transformers, the package grad-cam, finite differences, loops,
and what holds by definition.
"""

import copy
import math

import numpy as np
import pytest
from availability import require

torch = require("torch")

from oracles import (  # noqa: E402
    SMALL,
    build_reference,
    double_reference,
    layouts,
    reference_image_features,
    reference_text_features,
    tokenize,
)
from oracles import explanations as ex  # noqa: E402

# They hold the oracles against each other, and change only with them.
pytestmark = pytest.mark.full

TEXTS = ["a photo of a dog", "a photograph of two cats on a red sofa, next to a window", "서울의 경복궁"]
TEMPLATES = ("a photo of a {}.", "a drawing of the {}", "{}")
VITS = [name for name in SMALL if SMALL[name].is_vit]
RESNETS = [name for name in SMALL if not SMALL[name].is_vit]


def layers_of(name):
    """All stages and two single blocks, or all blocks."""
    if SMALL[name].is_vit:
        return list(range(SMALL[name].vision_layers))
    return ["layer1", "layer2", "layer3", "layer4", "layer2.0", "layer3.0"]


every_layer = pytest.mark.parametrize(
    "name, layer", [(name, layer) for name in SMALL for layer in layers_of(name)])
every_model = pytest.mark.parametrize("name", SMALL)
every_vit = pytest.mark.parametrize("name", VITS)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Small models gain nothing from two, and lose much where another process is busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def double(random_model):
    """A function from the name of a spec to its reference in float64."""
    models = {}

    def model(name):
        if name not in models:
            models[name] = double_reference(random_model(name).reference)
        return models[name]

    return model


def picture_for(photos, name, dtype=np.float64):
    return photos(2, SMALL[name].image_size, 5)[1].astype(dtype)


def close(found, expected, tolerance=1e-9, what=""):
    """Assert a largest difference of at most `tolerance` times the largest value."""
    found, expected = (np.asarray(x.detach() if torch.is_tensor(x) else x) for x in (found, expected))
    assert found.shape == expected.shape
    size = np.abs(expected).max()
    error = np.abs(found - expected).max() / size
    print(f"{what} error {error:.1e} of the largest value {size:.3g}")
    assert size > 0 and error <= tolerance, f"{what}: {error:.1e} of the largest value"


# -- the towers ----------------------------------------------------------------------------------------------


@every_model
def test_features_are_those_of_openai(name, random_model, photos):
    _, _, model = random_model(name)
    x = photos(3, SMALL[name].image_size, 5)
    with torch.no_grad():
        close(ex.image_pass(model, torch.tensor(x)).features, reference_image_features(model, x).raw, 1e-5)
        close(ex.text_pass(model, TEXTS).features, reference_text_features(model, tokenize(TEXTS)).raw, 1e-5)


@every_layer
def test_activations_and_gradients_are_those_of_hooks(name, layer, double, photos):
    model, x = double(name), picture_for(photos, name)
    visual, vit = model.visual, SMALL[name].is_vit
    module = visual.transformer.resblocks[layer].ln_1 if vit else visual.get_submodule(layer)
    kept = []
    handle = module.register_forward_hook(lambda module, inputs, output: kept.append(output))
    try:
        v = model.encode_image(torch.tensor(x[None]))[0]
    finally:
        handle.remove()
    a, g = ex.activations_and_gradients(model, x, TEXTS[:1], layer)
    for text, found in zip(TEXTS[:1], g):
        t = model.encode_text(torch.from_numpy(tokenize([text]).astype(np.int64)))[0].detach()
        score = model.logit_scale.exp() * torch.nn.functional.cosine_similarity(v, t, dim=0, eps=0)
        expected = torch.autograd.grad(score, kept[0], retain_graph=True)[0]
        side = math.isqrt(len(expected) - 1) if vit else None
        if vit:
            expected = expected[1:, 0].T.reshape(-1, side, side)
            close(a, kept[0][1:, 0].T.reshape(-1, side, side))
        else:
            expected = expected[0]
            close(a, kept[0][0])
        close(found, expected)


@pytest.mark.parametrize("score", ["logit", "cosine", "dot", "probability"])
@pytest.mark.parametrize("name, layer", [("RN50-small", "layer1"), ("RN50-small", "layer2.0"),
                                         ("RN50-small", "layer4"), ("ViT-H80-small", 0),
                                         ("ViT-H80-small", 2)])
def test_gradients_are_finite_differences(name, layer, score, double, photos):
    """Along a random direction, through OpenAI's module, in float64."""
    model, x = double(name), picture_for(photos, name)
    vit = SMALL[name].is_vit
    _, g = ex.activations_and_gradients(model, x, TEXTS, layer, score, TEXTS)
    module = (model.visual.transformer.resblocks[layer].ln_1 if vit else model.visual.get_submodule(layer))
    direction = torch.tensor(np.random.default_rng(0).standard_normal(g[0].shape))
    with torch.no_grad():
        t = model.encode_text(torch.from_numpy(tokenize(TEXTS).astype(np.int64)))

    def scores(step):
        def moved(module, inputs, output):
            output = output.clone()
            if vit:
                output[1:, 0] += step * direction.flatten(1).T
            else:
                output[0] += step * direction
            return output

        handle = module.register_forward_hook(moved)
        try:
            with torch.no_grad():
                v = model.encode_image(torch.tensor(x[None]))[0]
        finally:
            handle.remove()
        if score == "dot":
            return t @ v
        cosine = (t / t.norm(dim=1, keepdim=True)) @ (v / v.norm())
        logits = model.logit_scale.exp() * cosine
        return {"cosine": cosine, "logit": logits, "probability": logits.softmax(0)}[score].detach()

    step = 1e-6
    slope = (scores(step) - scores(-step)) / (2 * step)
    close((g * direction).sum((1, 2, 3)), slope, 1e-5, f"{name} {layer} {score}")


@every_vit
def test_another_grid_is_that_of_transformers(name, random_model, photos, tmp_path):
    require("transformers")
    from oracles import transformers_reference as hf

    spec, weights, model = random_model(name)
    other = hf.load_transformers(layouts.save_huggingface(weights, tmp_path, spec))
    x = torch.tensor(photos(2, spec.image_size + 3 * spec.patch_size, 6))
    with torch.no_grad():
        pooled = other.vision_model(pixel_values=x, interpolate_pos_encoding=True).pooler_output
        close(ex.image_pass(model, x).features, other.visual_projection(pooled), 1e-5)


@pytest.mark.parametrize("name", RESNETS)
def test_another_grid_of_a_modified_resnet(name, random_model, photos):
    """OpenAI's module with its table replaced by one that was interpolated value by value."""
    spec, weights, model = random_model(name)
    old, new = spec.grid, spec.grid + 2
    table = weights["visual.attnpool.positional_embedding"].double().numpy()
    rows = cubic_rows(old, new)
    square = np.einsum("ai,bj,ijc->abc", rows, rows, table[1:].reshape(old, old, -1))
    larger = np.concatenate([table[:1], square.reshape(new * new, -1)])
    changed = build_reference({**weights, "visual.attnpool.positional_embedding":
                               torch.tensor(larger, dtype=torch.float32)}, spec.activation, spec.heads)
    x = photos(2, 32 * new, 6)
    with torch.no_grad():
        close(ex.image_pass(model, torch.tensor(x)).features, reference_image_features(changed, x).raw, 1e-5)


def cubic_rows(old, new):
    """Weights (new, old) of Keys' cubic convolution, a = -0.75, half-pixel centres, the edge repeated."""
    def kernel(t):
        t, a = abs(t), -0.75
        if t <= 1:
            return (a + 2) * t**3 - (a + 3) * t**2 + 1
        return a * (t**3 - 5 * t**2 + 8 * t - 4) if t < 2 else 0.0

    weights = np.zeros((new, old))
    for i in range(new):
        centre = (i + 0.5) * old / new - 0.5
        for j in range(math.floor(centre) - 1, math.floor(centre) + 3):
            weights[i, min(max(j, 0), old - 1)] += kernel(centre - j)
    return weights


def test_positions_on_their_own_grid_stay(random_model):
    table = random_model("ViT-B/16-small").reference.visual.positional_embedding
    assert torch.equal(ex.interpolated_positions(table, (7, 7)), table)


# -- class activation maps -----------------------------------------------------------------------------------

# Their ViT has to be given a way to make a grid of tokens; the gradients at ln_1 are the same.
PACKAGE_CASES = [("RN50-small", "layer4"), ("RN50-small", "layer2"), ("RN50x4-small", "layer3.1"),
                 ("ViT-B/16-small", 2), ("ViT-B/16-small", 0), ("ViT-H80-small", 1)]


@pytest.mark.parametrize("method, score", [("gradcam", "logit"), ("gradcam", "cosine"), ("gradcam", "dot"),
                                           ("layercam", "logit"), ("hirescam", "logit")])
@pytest.mark.parametrize("name, layer", PACKAGE_CASES)
def test_grad_cam_package(name, layer, method, score, package_map, random_model, photos):
    model, x = random_model(name).reference, picture_for(photos, name, np.float32)
    expected = ex.raw_maps(model, x, TEXTS[:2], method, layer=layer, score=score)
    for text, signed in zip(TEXTS, expected):
        found, scaled = package_map(model, x, text, method, layer=layer, score=score)
        close(found, signed, 1e-5, f"{name} {layer} {method}")
        # They divide by the largest value + 1e-7, twice.
        peak = np.maximum(signed, 0).max()
        if peak > 0:
            np.testing.assert_allclose(scaled, ex.min_max(signed), atol=1e-5 + 4e-7 / peak)
        else:
            assert not scaled.any()


@pytest.mark.parametrize("name, layer", [("RN50-small", "layer4"), ("RN50-small", "layer2"),
                                         ("RN50x4-small", "layer3.1")])
def test_grad_cam_package_plus_plus(name, layer, package_map, random_model, photos):
    # They add 1e-6 to a denominator of the size of the squared gradient, which of CLIP's logits is often
    # smaller than that. A score 10,000 times as large leaves the definition alone and makes it negligible.
    model, x = random_model(name).reference, picture_for(photos, name, np.float32)
    a, g = ex.activations_and_gradients(model, x, TEXTS[:1], layer)
    found, _ = package_map(model, x, TEXTS[0], "gradcam++", layer=layer, factor=1e4)
    close(found, ex.gradcam_plus_plus(a, 1e4 * g[0]), 1e-4, f"{name} {layer}")


def test_grad_cam_package_score_cam(package_map, random_model, photos):
    model, x = random_model("ViT-B/16-small").reference, picture_for(photos, "ViT-B/16-small", np.float32)
    for layer in (0, 2):
        expected = ex.raw_maps(model, x, TEXTS[:2], "scorecam", layer=layer)
        for text, signed in zip(TEXTS, expected):
            close(package_map(model, x, text, "scorecam", layer=layer)[0], signed, 1e-4)


def test_grad_cam_package_eigen_cam(package_map, random_model, photos):
    # They centre the channels first, and leave the sign to chance.
    model, x = random_model("ViT-B/16-small").reference, picture_for(photos, "ViT-B/16-small", np.float32)
    a = ex.activations(model, x)
    centred = ex.eigencam(a - a.mean((1, 2), keepdim=True)).numpy()
    found = package_map(model, x, TEXTS[0], "eigencam")[0]
    close(found * np.sign((found * centred).sum()), centred, 1e-4)
    assert np.abs(ex.eigencam(a).numpy() - centred).max() > 0.1 * np.abs(centred).max()


def test_plus_plus_is_equation_19():
    """The weights from derivatives of Y = exp S, by autograd, for a score that is linear in A."""
    rng = np.random.default_rng(1)
    a, g = (torch.tensor(rng.standard_normal((3, 2, 4))) for _ in range(2))
    g[1, 0, 0] = 0
    expected = torch.zeros(2, 4, dtype=torch.float64)
    for c in range(3):
        weight = 0.0
        for i in range(2):
            for j in range(4):
                value = a[c, i, j].clone().requires_grad_()
                y = torch.exp((g * a).sum() - g[c, i, j] * a[c, i, j] + g[c, i, j] * value)
                first, = torch.autograd.grad(y, value, create_graph=True)
                second, = torch.autograd.grad(first, value, create_graph=True)
                third, = torch.autograd.grad(second, value)
                if second != 0:
                    alpha = second / (2 * second + a[c].sum() * third)
                    weight += alpha.detach() * max(first.item() / y.item(), 0)
        expected += weight * a[c]
    close(ex.gradcam_plus_plus(a, g), expected)


def test_plus_plus_without_gradient_is_zero():
    a = torch.rand(3, 2, 2)
    assert not ex.gradcam_plus_plus(a, torch.zeros(3, 2, 2)).any()
    # 2 + g sum(A) = 0 exactly: the channel counts for nothing.
    assert not ex.gradcam_plus_plus(torch.full((1, 2, 2), -0.5), torch.ones(1, 2, 2)).any()


def test_eigencam_is_the_direction_of_most_energy():
    a = torch.tensor(np.random.default_rng(2).standard_normal((5, 3, 4)) + 0.3)
    rows = a.flatten(1).T.numpy()
    direction = np.ones(5)
    for _ in range(2000):
        direction = rows.T @ (rows @ direction)
        direction /= np.linalg.norm(direction)
    expected = rows @ direction
    expected *= np.sign(expected.sum())
    close(ex.eigencam(a), expected.reshape(3, 4), 1e-6)
    close(ex.eigencam(-a), expected.reshape(3, 4), 1e-6)


def test_channel_masks():
    a = torch.tensor([[[1.0, 3.0], [5.0, 7.0]], [[2.0, 2.0], [2.0, 2.0]], [[-4.0, -2.0], [-2.0, -2.0]]])
    masks = ex.channel_masks(a, 3)
    expected = [[[0, 1 / 6, 1 / 3], [1 / 3, 1 / 2, 2 / 3], [2 / 3, 5 / 6, 1]], np.zeros((3, 3)),
                [[0, 0.5, 1], [0.5, 0.75, 1], [1, 1, 1]]]
    np.testing.assert_allclose(masks, expected, atol=1e-6)


def test_gscorecam_of_few_channels_is_scorecam(double, photos):
    model, x = double("ViT-B/32-small"), picture_for(photos, "ViT-B/32-small")
    close(ex.raw_maps(model, x, TEXTS, "gscorecam"), ex.raw_maps(model, x, TEXTS, "scorecam"))


def test_gscorecam_channel_by_channel(random_model, photos):
    name = "RN50-small"
    model, x = random_model(name).reference, picture_for(photos, name, np.float32)
    a, g = ex.activations_and_gradients(model, x, TEXTS[:1], "layer4")
    assert len(a) == 512
    means = g[0].double().mean((1, 2)).tolist()
    chosen = sorted(range(512), key=lambda c: -means[c])[:300]
    assert sorted(ex.gscorecam_channels(g[0]).tolist()) == sorted(chosen)
    t = reference_text_features(model, tokenize(TEXTS[:1])).unit[0]
    logits, masked = np.zeros(512), []
    enlarged = torch.nn.UpsamplingBilinear2d(size=x.shape[1:])(a[None])[0].numpy()
    for c in chosen:
        span = enlarged[c].max() - enlarged[c].min()
        mask = (enlarged[c] - enlarged[c].min()) / span if span > 0 else np.zeros_like(enlarged[c])
        masked.append(x * mask)
    logits[chosen] = 100 * reference_image_features(model, np.stack(masked)).unit @ t
    weights = np.exp(logits) / np.exp(logits).sum()
    expected = np.einsum("c,cij->ij", weights, a.numpy())
    close(ex.raw_maps(model, x, TEXTS[:1], "gscorecam")[0], expected, 1e-4)


# -- attention maps ------------------------------------------------------------------------------------------


@every_vit
def test_relevance_from_the_attention_of_transformers(name, random_model, photos, tmp_path):
    """Their attention probabilities, and autograd's gradients of them, in both towers."""
    require("transformers")
    from oracles import transformers_reference as hf

    spec, weights, model = random_model(name)
    other = hf.load_transformers(layouts.save_huggingface(weights, tmp_path, spec))
    x = picture_for(photos, name, np.float32)
    ids = torch.from_numpy(tokenize(TEXTS[1:2]).astype(np.int64))
    image = other.vision_model(pixel_values=torch.tensor(x[None]), output_attentions=True)
    text = other.text_model(input_ids=ids, output_attentions=True)
    v, t = other.visual_projection(image.pooler_output)[0], other.text_projection(text.pooler_output)[0]
    score = 100 * torch.nn.functional.cosine_similarity(v, t, dim=0)
    end = int(ids[0].argmax())
    for blocks in ("all", "last"):
        used = [part.attentions if blocks == "all" else part.attentions[-1:] for part in (image, text)]
        found = []
        for attentions in used:
            gradients = torch.autograd.grad(score, attentions, retain_graph=True)
            r = np.eye(attentions[0].shape[-1])
            for a, g in zip(attentions, gradients):
                r = r + np.maximum(a[0].detach().numpy() * g[0].numpy(), 0).mean(0) @ r
            found.append(r)
        expected = ex.raw_maps(model, x, TEXTS[1:2], "relevance", blocks=blocks)[0]
        close(found[0][0, 1:].reshape(expected.shape), expected, 1e-5, f"image, {blocks}")
        tokens, values = ex.text_relevance(model, x, TEXTS[1], blocks=blocks)
        assert tokens == ids[0, 1:end].tolist()
        close(found[1][end, 1:end], values, 1e-5, f"text, {blocks}")


@every_model
def test_text_relevance_sees_no_later_token(name, double, photos):
    model, x = double(name), picture_for(photos, name)
    done = ex.text_pass(model, TEXTS)
    for a in done.attention:
        close(a.sum(-1), np.ones(a.shape[:-1]))
        assert not a.triu(1).any()
    v = ex.image_pass(model, torch.tensor(x[None])).features[0].detach()
    matrix = ex.relevance_of(ex.score_of(model, v, done.features[0]), done.attention, 0, "all")
    end = int(tokenize(TEXTS)[0].argmax())
    assert matrix[end, 1:end].any() and not matrix[end, end + 1:].any()
    assert torch.equal(matrix[end + 1:], torch.eye(77, dtype=torch.float64)[end + 1:])


@every_vit
def test_rollout_mixes_rows(name, double, photos):
    model, x = double(name), picture_for(photos, name)
    with torch.no_grad():
        attention = [a[0] for a in ex.image_pass(model, torch.tensor(x[None])).attention]
    close(ex.rollout(attention).sum(1), np.ones(len(attention[0][0])))
    expected = np.eye(len(attention[0][0]))
    for a in attention:
        expected = (a.numpy().mean(0) + np.eye(len(expected))) / 2 @ expected
    close(ex.rollout(attention), expected)
    grid = ex.raw_maps(model, x, [], "rollout")
    close(grid.ravel(), expected[0, 1:])
    assert grid.max() > 1.05 * grid.min() > 0


def test_relevance_by_hand():
    a = [torch.tensor([[[0.5, 0.5], [0.25, 0.75]]]), torch.tensor([[[0.0, 1.0], [1.0, 0.0]]])]
    g = [torch.tensor([[[2.0, -2.0], [4.0, 4.0]]]), torch.tensor([[[3.0, 2.0], [-1.0, 5.0]]])]
    # R1 = I + [[1, 0], [1, 3]], R2 = R1 + [[0, 2], [0, 0]] R1
    np.testing.assert_allclose(ex.relevance(a, g), [[2 + 2, 8], [1, 4]])
    np.testing.assert_allclose(ex.relevance(a[1:], g[1:]), [[1, 2], [0, 1]])


# -- dense features ------------------------------------------------------------------------------------------


def mixed_by_openai(model, x, change, index=-1):
    """Features of all tokens by OpenAI's module after `change` was made to a copy of block `index`."""
    visual = copy.deepcopy(model.visual)
    change(visual.transformer.resblocks[index])
    kept = []
    handle = visual.transformer.register_forward_hook(lambda module, inputs, output: kept.append(output))
    with torch.no_grad():
        visual(torch.tensor(x[None]))
        handle.remove()
        return visual.ln_post(kept[0][:, 0]) @ visual.proj


@every_vit
def test_maskclip_is_a_mask_that_leaves_each_token_itself(name, double, photos):
    model, x = double(name), picture_for(photos, name)

    def alone(block):
        tokens = SMALL[name].grid ** 2 + 1
        block.attn_mask = torch.full((tokens, tokens), -math.inf).fill_diagonal_(0)

    close(ex.maskclip_features(model, torch.tensor(x)), mixed_by_openai(model, x, alone)[1:])


@pytest.mark.parametrize("name", RESNETS)
def test_maskclip_is_an_attention_pool_of_one_position(name, double, photos):
    model, x = double(name), picture_for(photos, name)
    pool = copy.deepcopy(model.visual.attnpool)
    zeros = torch.zeros(2, pool.q_proj.in_features, dtype=torch.float64)
    pool.positional_embedding = torch.nn.Parameter(zeros)
    with torch.no_grad():
        last = ex.activations(model, x, "layer4").flatten(1).T
        close(ex.maskclip_features(model, torch.tensor(x)), pool(last[:, :, None, None]))


@every_vit
def test_sclip_is_two_attentions_with_copied_projections(name, double, photos):
    """OpenAI's attention with the keys' projection in place of the queries', and the other way round."""
    model, x = double(name), picture_for(photos, name)

    def both(block):
        width = block.attn.embed_dim
        results = []
        for source in (0, 1):
            weight, bias = (p.detach().clone() for p in (block.attn.in_proj_weight, block.attn.in_proj_bias))
            for p in (weight, bias):
                p[:2 * width] = p[source * width:(source + 1) * width].repeat(2, *[1] * (p.ndim - 1))
            results.append((weight, bias))

        def attention(tokens):
            total = -block.attn.out_proj.bias
            for weight, bias in results:
                block.attn.in_proj_weight.data, block.attn.in_proj_bias.data = weight, bias
                total = total + block.attn(tokens, tokens, tokens, need_weights=False)[0]
            return total

        block.attention = attention

    close(ex.sclip_features(model, torch.tensor(x)), mixed_by_openai(model, x, both)[1:])


@every_vit
def test_surgery_by_openai_blocks_with_copied_projections(name, double, photos):
    """The second path: OpenAI's attention with the values' projection for all three, on the first path."""
    model, x = double(name), picture_for(photos, name)
    second, kept = [], []
    visual = copy.deepcopy(model.visual)
    for block in visual.transformer.resblocks:
        twin = copy.deepcopy(block.attn)
        width = twin.embed_dim
        for p in (twin.in_proj_weight.data, twin.in_proj_bias.data):
            p[:width] = p[width:2 * width] = p[2 * width:]
        block.ln_1.register_forward_hook(
            lambda module, inputs, h, twin=twin: second.append(twin(h, h, h, need_weights=False)[0]))
    visual.transformer.register_forward_pre_hook(lambda module, inputs: kept.append(inputs[0]))
    with torch.no_grad():
        cls = visual(torch.tensor(x[None]))
        assert SMALL[name].vision_layers <= ex.SURGERY_BLOCKS
        patches = visual.ln_post(sum(second, kept[0])[1:, 0]) @ visual.proj
        expected = torch.cat([cls, patches])
        close(ex.surgery_features(model, torch.tensor(x)), expected / expected.norm(dim=1, keepdim=True))


def test_surgery_takes_the_last_six_blocks(random_model, photos):
    """Of eight: the patches leave the model's path at the input of block 2."""
    from oracles import Architecture, random_state_dict

    spec = Architecture("deep", 64, 64, 8, 64, 32, text_width=64, text_layers=1)
    model = double_reference(build_reference(random_state_dict(spec)))
    x = torch.tensor(photos(1, 64, 5)[0].astype(np.float64))
    with torch.no_grad():
        done = ex.image_pass(model, x[None])
        found = ex.surgery_features(model, x)
        close(found[0], done.features[0] / done.features[0].norm())
        second = done.inputs[2][0]
        for index in range(2, 8):
            attn = model.visual.transformer.resblocks[index].attn
            v = done.layers[index][0] @ attn.in_proj_weight[128:].T + attn.in_proj_bias[128:]
            second = second + (v @ v.T / 8).softmax(1) @ v @ attn.out_proj.weight.T + attn.out_proj.bias
        patches = model.visual.ln_post(second) @ model.visual.proj
        close(found[1:], (patches / patches.norm(dim=1, keepdim=True))[1:])


@pytest.mark.parametrize("name", RESNETS)
def test_surgery_of_a_modified_resnet_in_loops(name, double, photos):
    model, x = double(name), picture_for(photos, name)
    spec, pool = SMALL[name], {k: p.detach().numpy() for k, p in model.visual.attnpool.named_parameters()}
    last = ex.activations(model, x, "layer4").numpy()
    tokens = last.reshape(len(last), -1).T
    tokens = np.concatenate([tokens.mean(0, keepdims=True), tokens]) + pool["positional_embedding"]
    v = tokens @ pool["v_proj.weight"].T + pool["v_proj.bias"]
    mixed, size = np.zeros_like(v), v.shape[1] // spec.vision_heads
    for head in range(spec.vision_heads):
        part = slice(head * size, (head + 1) * size)
        for i in range(len(v)):
            a = v[i, part] / np.linalg.norm(v[i, part])
            weights = [math.exp(8 / math.sqrt(size) * a @ b / np.linalg.norm(b)) for b in v[:, part]]
            mixed[i, part] = np.average(v[:, part], axis=0, weights=weights)
    f = mixed @ pool["c_proj.weight"].T + pool["c_proj.bias"]
    f[0] = model.encode_image(torch.tensor(x[None]))[0].detach().numpy()
    with torch.no_grad():
        found = ex.surgery_features(model, torch.tensor(x))
    close(found, f / np.linalg.norm(f, axis=1, keepdims=True))


def test_feature_surgery_in_loops():
    rng = np.random.default_rng(3)
    f, t = rng.standard_normal((5, 8)), rng.standard_normal((3, 8))
    f, t = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (f, t))
    p = np.exp(2 * t @ f[0])
    w = p / p.mean()
    expected = np.zeros((3, 4))
    for n in range(3):
        for i in range(4):
            for c in range(8):
                own = w[n] * f[1 + i, c] * t[n, c]
                expected[n, i] += own - sum(w[m] * f[1 + i, c] * t[m, c] for m in range(3)) / 3
    found = ex.feature_surgery(torch.tensor(f), torch.tensor(t)).numpy()
    close(found, expected)
    assert np.abs(found.sum(0)).max() < 1e-12, "what all texts share is gone"
    same = ex.feature_surgery(torch.tensor(f), torch.tensor(t[:1]).repeat(3, 1))
    assert same.abs().max() < 1e-12


def test_feature_surgery_of_one_text(double, photos):
    name = "ViT-B/32-small"
    model, x = double(name), picture_for(photos, name)
    found = ex.raw_maps(model, x, TEXTS[:1], "surgery", score="cosine", empty_templates=TEMPLATES)[0]
    empty = reference_text_features(model, tokenize(["a photo of a .", "a drawing of the ", ""])).unit.mean(0)
    empty /= np.linalg.norm(empty)
    t = reference_text_features(model, tokenize(TEXTS[:1])).unit[0]
    with torch.no_grad():
        f = ex.surgery_features(model, torch.tensor(x))[1:].numpy()
    close(found, (f @ t - f @ empty).reshape(2, 2), 1e-5)
    logit = ex.raw_maps(model, x, TEXTS[:1], "surgery", empty_templates=TEMPLATES)[0]
    close(logit, 100 * found, 1e-5)


@pytest.mark.parametrize("method", ["maskclip", "sclip"])
def test_dense_scores_of_patches(method, double, photos):
    name = "ViT-B/16-small"
    model, x = double(name), picture_for(photos, name)
    features = ex.maskclip_features if method == "maskclip" else ex.sclip_features
    with torch.no_grad():
        f = features(model, torch.tensor(x)).numpy()
    t = ex.text_pass(model, TEXTS).features.detach().numpy()
    dot = np.einsum("pd,nd->np", f, t)
    cosine = dot / np.linalg.norm(f, axis=1) / np.linalg.norm(t, axis=1)[:, None]
    scale = model.logit_scale.exp().item()
    probability = np.exp(scale * cosine) / np.exp(scale * cosine).sum(0)
    for score, expected in (("dot", dot), ("cosine", cosine), ("logit", scale * cosine),
                            ("probability", probability)):
        close(ex.raw_maps(model, x, TEXTS, method, score=score, labels=TEXTS),
              expected.reshape(3, 7, 7), 1e-9, score)


# -- kinks ---------------------------------------------------------------------------------------------------


def test_flipped_kinks_are_other_gradients(double, photos):
    """The gradient on the other side of a ReLU's zero, by a picture that is moved there."""
    name = "RN50-small"
    model, x = double(name), picture_for(photos, name)
    near = ex.kinks(model, x, within=1e-3)
    assert len(near) > len(ex.kinks(model, x, within=1e-4))
    kink, position = next(one for one in near if one[0].startswith("layer4"))
    module = ex.rectifiers(model)[kink]

    def pushed(module, inputs):
        value = inputs[0].flatten()[position].detach()
        bump = torch.zeros_like(inputs[0]).flatten()
        bump[position] = -2 * value
        return inputs[0] + bump.reshape(inputs[0].shape)

    plain = ex.raw_maps(model, x, TEXTS, layer="layer3")
    with ex.flipped(model, [(kink, position)]):
        found = ex.raw_maps(model, x, TEXTS, layer="layer3")
    close(ex.raw_maps(model, x, TEXTS, layer="layer3"), plain)
    handle = module.register_forward_pre_hook(pushed)
    try:
        expected = ex.raw_maps(model, x, TEXTS, layer="layer3")
    finally:
        handle.remove()
    effect = np.abs(plain - expected).max()
    print(f"effect {effect:.1e}, flipped {np.abs(found - expected).max():.1e}")
    assert np.abs(found - expected).max() < 0.1 * effect


def test_kinks_are_found_again(double, photos):
    name = "RN50-small"
    model, x = double(name), picture_for(photos, name)

    def compute(x):
        return ex.raw_maps(model, x, TEXTS, layer="layer2")

    behind = [kink for kink in ex.kinks(model, x, within=2e-4) if kink[0] > "layer3"]
    turned = [behind[0], behind[-1]]
    assert turned[0] != turned[1]
    with ex.flipped(model, turned):
        found = compute(x)
    flips, maps = ex.kinks_as_in(found, model, x, compute, within=2e-4)
    assert sorted(flips) == sorted(turned)
    close(maps, found)
    assert np.abs(compute(x) - found).max() > 1e-4 * np.abs(found).max()


@every_vit
def test_a_vision_transformer_has_no_kinks(name, double, photos):
    assert not ex.kinks(double(name), picture_for(photos, name), within=1.0)


# -- how exact float32 is ------------------------------------------------------------------------------------

# Parity of 1e-4 of the largest value is fair: float32 differs from float64 by less than a third of it.
FLOAT32 = 3e-5


@every_model
def test_float32_of_activation_maps(name, random_model, double, photos):
    """Grad-CAM++ of signed activations is the exception; its condition says how much that costs."""
    single, x = random_model(name).reference, picture_for(photos, name, np.float32)
    for layer in layers_of(name)[:: 1 if SMALL[name].is_vit else 3]:
        (a32, g32), (a64, g64) = (ex.activations_and_gradients(model, x, TEXTS[:2], layer)
                                  for model in (single, double(name)))
        close(ex.eigencam(a32), ex.eigencam(a64), FLOAT32, f"eigencam, {layer}")
        for method, function in ex.GRADIENT_MAPS.items():
            found, expected = ([function(a, one) for one in g] for a, g in ((a32, g32), (a64, g64)))
            for n in range(2):
                tolerance = FLOAT32
                if method == "gradcam++":
                    tolerance += 5e-6 * ex.gradcam_plus_plus_condition(a64, g64[n])
                close(found[n], expected[n], tolerance, f"{method}, {layer}")
            assert (expected[0] - expected[1]).abs().max() > 0.01 * expected[0].abs().max()


@pytest.mark.parametrize("name, method", [
    (name, method) for name in SMALL for method in ex.ATTENTION_METHODS + ex.DENSE_METHODS
    if SMALL[name].is_vit or method not in ex.VIT_ONLY])
def test_float32_of_attention_and_dense_maps(name, method, random_model, double, photos):
    single, x = random_model(name).reference, picture_for(photos, name, np.float32)
    found, expected = (ex.raw_maps(model, x, TEXTS[:2], method) for model in (single, double(name)))
    close(found, expected, FLOAT32)
    if method not in ex.NEEDS_NO_TEXT:
        assert np.abs(expected[0] - expected[1]).max() > 0.01 * np.abs(expected).max()


# -- maps on the picture -------------------------------------------------------------------------------------


def test_min_max():
    np.testing.assert_allclose(ex.min_max([[-1, 1], [2, 5]]), [[0, 0.2], [0.4, 1]])
    np.testing.assert_allclose(ex.min_max([[1, 2], [2, 5]]), [[0, 0.25], [0.25, 1]])
    assert not ex.min_max([[-1, -2], [-3, 0]]).any()


@pytest.mark.parametrize(
    "grid, size", [((2, 2), (6, 6)), ((7, 7), (21, 35)), ((1, 3), (4, 9)), ((4, 4), (3, 2))])
def test_placed_on_a_whole_picture_is_interpolate(grid, size):
    values = np.random.default_rng(4).random(grid)
    expected = torch.nn.functional.interpolate(
        torch.tensor(values)[None, None], size, mode="bilinear", align_corners=False)[0, 0]
    found = ex.placed(values, (0, 0, size[1], size[0]), *size)
    close(found, expected, 1e-12)
    # In the middle of a larger picture, and with only its middle in a smaller one.
    large = ex.placed(values, (2, 1, 2 + size[1], 1 + size[0]), size[0] + 4, size[1] + 3)
    outside = np.ones(large.shape, bool)
    outside[1:1 + size[0], 2:2 + size[1]] = False
    close(large[~outside].reshape(size), expected, 1e-12)
    assert not large[outside].any()
    small = ex.placed(values, (-1, -1, size[1] - 1, size[0] - 1), size[0] - 2, size[1] - 1)
    close(small, expected[1:-1, 1:], 1e-12)


def test_placed_on_a_box_with_fractions_is_grid_sample():
    values = np.random.default_rng(5).random((3, 5))
    x0, y0, x1, y1 = box = (1.3, -2.6, 17.1, 9.9)
    x, y = np.meshgrid(np.arange(20) + 0.5, np.arange(13) + 0.5)
    points = np.stack([2 * (x - x0) / (x1 - x0) - 1, 2 * (y - y0) / (y1 - y0) - 1], axis=-1)
    sampled = torch.nn.functional.grid_sample(
        torch.tensor(values)[None, None], torch.tensor(points)[None], padding_mode="border",
        align_corners=False)[0, 0].numpy()
    inside = (x > x0) & (x < x1) & (y > y0) & (y < y1)
    close(ex.placed(values, box, 13, 20), np.where(inside, sampled, 0), 1e-12)


def test_words_of_tokens():
    from oracles import reference_tokenizer

    text = "Two hanoks, 서울의 🌇 photo!"
    tokens = reference_tokenizer().encode(text)
    words = ex.word_scores(tokens, np.arange(len(tokens)) + 1.0, reference_tokenizer())
    assert [word for word, _ in words] == ["two", "hanoks", ",", "서울의", "🌇", "photo", "!"]
    assert sum(value for _, value in words) == len(tokens) * (len(tokens) + 1) / 2
    assert words[0][1] == 1
