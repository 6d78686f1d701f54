"""The contrastive loss against PyTorch, open_clip's definition and finite differences."""

import csv
import json
import math

import numpy as np
import pytest
from availability import require

import clipc
from clipc.evaluate import contrastive_loss


def batch(n=7, d=12, seed=0):
    rng = np.random.default_rng(seed)
    image = rng.standard_normal((n, d)) * rng.uniform(0.5, 20, (n, 1))
    text = 0.5 * image / np.linalg.norm(image, axis=1, keepdims=True) + 0.3 * rng.standard_normal((n, d))
    return image, text


def torch_loss(image, text, scale):
    """open_clip's ClipLoss on one machine: unit features, logits, cross-entropy both ways; by autograd."""
    torch = require("torch")
    x, y, s = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (image, text, scale))
    u, v = (value / value.norm(dim=1, keepdim=True) for value in (x, y))
    logits = s * u @ v.T
    target = torch.arange(len(x))
    image_loss = torch.nn.functional.cross_entropy(logits, target)
    text_loss = torch.nn.functional.cross_entropy(logits.T, target)
    loss = (image_loss + text_loss) / 2
    loss.backward()
    return [value.item() for value in (loss, image_loss, text_loss)], x.grad, y.grad, s.grad, logits.detach()


@pytest.mark.parametrize("n, d, scale", [(7, 12, 1 / 0.07), (2, 3, 1.0), (1, 4, 100.0), (33, 5, 100.0)])
def test_loss_and_gradient_are_those_of_pytorch(n, d, scale):
    image, text = batch(n, d)
    found = contrastive_loss(image, text, logit_scale=scale, gradient=True)
    losses, *gradients, logits = torch_loss(image, text, scale)
    np.testing.assert_allclose(
        [found.loss, found.image_loss, found.text_loss], losses, rtol=1e-10, atol=1e-13
    )
    ours = found.image_gradient, found.text_gradient, found.logit_scale_gradient
    for one, expected in zip(ours, gradients):
        np.testing.assert_allclose(one, expected.numpy(), rtol=1e-8, atol=1e-13)
    np.testing.assert_allclose(found.logits, logits.numpy(), rtol=1e-10, atol=1e-11)


def test_gradient_is_the_slope():
    image, text = batch(4, 5, seed=3)
    found = contrastive_loss(image, text, logit_scale=8.0, gradient=True)
    step = 1e-6

    for which, gradient in ((0, found.image_gradient), (1, found.text_gradient)):
        for i, j in np.ndindex(4, 5):

            def change(h, which=which, i=i, j=j):
                pair = [image.copy(), text.copy()]
                pair[which][i, j] += h
                return pair

            def loss(h, change=change):
                return contrastive_loss(*change(h), logit_scale=8.0).loss

            assert gradient[i, j] == pytest.approx((loss(step) - loss(-step)) / (2 * step), abs=1e-7)
    up, down = (contrastive_loss(image, text, logit_scale=8.0 + h).loss for h in (step, -step))
    assert found.logit_scale_gradient == pytest.approx((up - down) / (2 * step), abs=1e-8)
    # Only the direction of features counts.
    np.testing.assert_allclose((found.image_gradient * image).sum(axis=1), 0, atol=1e-12)
    np.testing.assert_allclose((found.text_gradient * text).sum(axis=1), 0, atol=1e-12)


def test_hand_worked_cases():
    # Three pairs at right angles: each finds its own with e against 1 and 1.
    found = contrastive_loss(np.eye(3), 5 * np.eye(3), logit_scale=1.0)
    assert found.loss == found.image_loss == found.text_loss == pytest.approx(math.log(1 + 2 / math.e))
    assert found.image_accuracy == found.text_accuracy == 1
    np.testing.assert_allclose(found.image_probabilities.diagonal(), math.e / (math.e + 2))
    # All alike: guessing.
    found = contrastive_loss(np.ones((4, 2)), np.ones((4, 2)), logit_scale=50)
    assert found.loss == pytest.approx(math.log(4)) == found.chance
    assert found.image_accuracy == found.text_accuracy == 0.25
    # Both texts are alike, and like the first picture: rows differ from columns.
    found = contrastive_loss(np.eye(2), [[1.0, 0], [1.0, 0]], logit_scale=2.0)
    assert found.image_loss == pytest.approx(math.log(2))
    assert found.text_loss == pytest.approx((math.log(1 + math.exp(-2)) + math.log(1 + math.exp(2))) / 2)
    assert (found.image_accuracy, found.text_accuracy) == (0.5, 0.5)


def test_properties():
    image, text = batch(9, 6, seed=1)
    found = contrastive_loss(image, text)
    assert found.logit_scale == 100
    np.testing.assert_allclose(found.image_probabilities.sum(axis=1), 1)
    np.testing.assert_allclose(found.text_probabilities.sum(axis=0), 1)
    scaled = contrastive_loss(3.5 * image, text / 7)
    assert scaled.loss == pytest.approx(found.loss)
    turned = contrastive_loss(text, image)
    assert (turned.image_loss, turned.text_loss) == pytest.approx((found.text_loss, found.image_loss))
    order = np.random.default_rng(0).permutation(9)
    assert contrastive_loss(image[order], text[order]).loss == pytest.approx(found.loss)
    assert found.image_gradient is found.text_gradient is found.logit_scale_gradient is None
    assert np.isfinite(contrastive_loss(image, -image, logit_scale=1e4).loss)
    single = contrastive_loss(image.astype(np.float32), text.astype(np.float32))
    assert single.loss == pytest.approx(found.loss, rel=1e-5)


def test_a_step_against_the_gradient_helps():
    image, text = batch(6, 10, seed=2)
    before = contrastive_loss(image, text, logit_scale=10.0, gradient=True)
    after = contrastive_loss(
        image - 5 * before.image_gradient, text - 0.1 * before.text_gradient, logit_scale=10.0
    )
    assert after.loss < before.loss


def test_a_real_batch(clip_data):
    """Photographs and their captions: the pairs are nearer to each other than pairs that are mixed up."""
    folder = clip_data("zeroshot")
    model = clipc.load("tiny")
    with open(folder / "labels.csv", newline="", encoding="utf-8") as file:
        rows = {row["label"]: row for row in csv.DictReader(file)}
    wanted = ["go-kart", "ladybug", "black widow", "lakeside", "ice cream", "umbrella"]
    rows = [rows[label] for label in wanted]
    images = model.encode_image([folder / row["file"] for row in rows])
    texts = model.encode_text([f"a photo of a {row['label']}." for row in rows])
    found = contrastive_loss(images, texts, logit_scale=model.logit_scale, gradient=True)
    np.testing.assert_allclose(
        found.logits, model.similarity(images, [f"a photo of a {w}." for w in wanted]), atol=1e-3
    )
    losses, *_ = torch_loss(images, texts, model.logit_scale)
    assert found.loss == pytest.approx(losses[0], rel=1e-6)
    mixed = contrastive_loss(images, np.roll(texts, 1, axis=0), logit_scale=model.logit_scale)
    assert found.loss < found.chance < mixed.loss


@pytest.mark.parametrize(
    "image, text, options, error, message",
    [
        (np.eye(3), np.eye(4), {}, ValueError, "expected the same shape"),
        (np.eye(3)[:2], np.eye(3), {}, ValueError, "a text for each image"),
        (np.ones(3), np.ones(3), {}, ValueError, r"image_features: expected shape \(N, D\)"),
        (np.empty((0, 3)), np.empty((0, 3)), {}, ValueError, "image_features"),
        (np.eye(3), np.diag([1, np.nan, 1]), {}, ValueError, "text_features: expected finite.*row 1"),
        (np.diag([1.0, 1, 0]), np.eye(3), {}, ValueError, "image_features: row 2 is zero"),
        ([["a"]], [["b"]], {}, TypeError, "image_features: expected numbers"),
        (np.eye(3), np.eye(3), {"logit_scale": 0}, ValueError, "positive"),
        (np.eye(3), np.eye(3), {"logit_scale": math.inf}, ValueError, "positive"),
        (np.eye(3), np.eye(3), {"logit_scale": "100"}, TypeError, "logit_scale: expected a number"),
    ],
)
def test_wrong_arguments(image, text, options, error, message):
    with pytest.raises(error, match=message):
        contrastive_loss(image, text, **options)


def test_printed_forms():
    found = contrastive_loss(*batch(), gradient=True)
    lines = str(found).split("\n")
    assert "Contrastive loss" in lines[0] and "guessing gives 1.946 (ln 7)" in lines[1]
    assert len(found) == 7 and [row["direction"] for row in found.rows()] == [
        "image to text",
        "text to image",
        "both",
    ]
    assert f"{found.loss:.4f}" in lines[-1] and f"{found.loss:.4f}" in found._repr_html_()
    assert f"{found.loss:.4f}" in found.to_markdown() and f"{found.loss:.4f}" in repr(found)
    assert found.to_pandas()["loss"].tolist() == [found.image_loss, found.text_loss, found.loss]
    back = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    np.testing.assert_allclose(back["logits"], found.logits)


def test_plot(tmp_path):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    found = contrastive_loss(*batch(), logit_scale=5.0)
    texts = [f"text {i}, which is as long as captions are, or longer" for i in range(7)]
    ax = found.plot(texts=texts, images=[f"image {i}" for i in range(7)])
    np.testing.assert_allclose(ax.images[0].get_array(), found.logits)
    assert ax.get_xticklabels()[2].get_text() == "text 2, which is as long as caption…"
    assert ax.get_yticklabels()[2].get_text() == "image 2"
    shown = found.plot(values="cosines").images[0].get_array()
    np.testing.assert_allclose(shown, found.logits / 5)
    pictures = [np.full((20, 30, 3), 30 * i, np.uint8) for i in range(7)]
    ax = found.plot(values="text_probabilities", images=pictures)
    np.testing.assert_allclose(ax.images[0].get_array().sum(axis=0), 100)
    ax.figure.savefig(tmp_path / "matrix.png")
    assert len(ax.artists) == 7
    with pytest.raises(ValueError, match="values: expected one of logits"):
        found.plot(values="similarity")
    with pytest.raises(ValueError, match="texts: expected 7"):
        found.plot(texts=texts[:3])
    pyplot.close("all")
