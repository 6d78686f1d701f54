"""The loss that CLIP is trained with, on a batch of pictures and their texts.

It says how well the pairs of a batch find each other: the smaller, the better. Its value depends on the size
of the batch: guessing gives ln N.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from clipc.evaluate.pictures import check_features
from clipc.evaluate.results import ResultTable, axes, plain
from clipc.tables import count, percent
from clipc.vectors import softmax

# What OpenAI's models were trained to, and not beyond (Radford et al. 2021, section 2.5).
LOGIT_SCALE = 100.0

_DIRECTIONS = ("image to text", "text to image")


def contrastive_loss(image_features, text_features, *, logit_scale=LOGIT_SCALE, gradient=False):
    """The symmetric cross-entropy of a batch of pairs.

    Parameters
    ----------
    image_features : float array (N, D)
        As `clipc.Model.encode_image` gives them; their lengths do not matter.
    text_features : float array (N, D)
        Row i belongs to row i of the pictures.
    logit_scale : float
        Factor s from cosine to logit, the inverse of the temperature; `clipc.Model.logit_scale` of a model.
        Training starts at 1 / 0.07.
    gradient : bool
        Also give the derivatives.

    Returns
    -------
    ContrastiveLoss

    Raises
    ------
    ValueError
        Shapes that differ, no rows, NaN or infinity, a row of zeros, which has no direction; a scale that is
        not positive.
    TypeError
        Something else than numbers.

    Notes
    -----
    With u_i and v_j the features of picture i and text j at length 1 (Radford et al. 2021, figure 3; the loss
    of open_clip's ``ClipLoss`` on one machine)::

        logits_ij = s u_i . v_j
        loss = 1/2 (image_loss + text_loss)
        image_loss = - 1/N sum_i ln P_ii,   P = softmax over texts, along each row
        text_loss  = - 1/N sum_j ln Q_jj,   Q = softmax over pictures, along each column

    Gradient, with x_i and y_j the features as they were given::

        G = d loss / d logits = (P + Q - 2 I) / (2 N)
        d loss / d u = s G v,    d loss / d v = s G^T u
        d loss / d x_i = (d/du_i - (u_i . d/du_i) u_i) / |x_i|,    likewise y_j
        d loss / d s = sum_ij G_ij u_i . v_j

    The gradient of a picture's features is orthogonal to them: only their direction counts. CLIP learns ln s,
    whose derivative is s times that of s.

    Every other text of the batch counts as wrong for a picture, also one that would fit it as well.

    Examples
    --------
    >>> loss = contrastive_loss(np.eye(3), np.eye(3), logit_scale=1.0)
    >>> round(loss.loss, 4) == round(math.log(1 + 2 / math.e), 4)
    True
    """
    x = check_features(image_features, "image_features").astype(np.float64)
    y = check_features(text_features, "text_features").astype(np.float64)
    if x.shape != y.shape:
        raise ValueError(
            "image_features and text_features: expected the same shape, a text for each image, got "
            f"{x.shape} and {y.shape}"
        )
    if not (isinstance(logit_scale, (int, float, np.number)) and not isinstance(logit_scale, bool)):
        raise TypeError(f"logit_scale: expected a number, got {type(logit_scale).__name__}")
    s = float(logit_scale)
    if not (math.isfinite(s) and s > 0):
        raise ValueError(f"logit_scale: expected a positive number, got {logit_scale}")
    u, x_length = _directions(x, "image_features")
    v, y_length = _directions(y, "text_features")

    cosine = u @ v.T
    logits = s * cosine
    own = logits.diagonal()
    image_loss = float((_log_sum_exp(logits, axis=1) - own).mean())
    text_loss = float((_log_sum_exp(logits, axis=0) - own).mean())
    image_probabilities, text_probabilities = softmax(logits, axis=1), softmax(logits, axis=0)
    gradients = {}
    if gradient:
        n = len(x)
        g = (image_probabilities + text_probabilities - 2 * np.eye(n)) / (2 * n)
        gradients = {
            "image_gradient": _through_length(s * g @ v, u, x_length),
            "text_gradient": _through_length(s * g.T @ u, v, y_length),
            "logit_scale_gradient": float((g * cosine).sum()),
        }
    return ContrastiveLoss(
        loss=(image_loss + text_loss) / 2,
        image_loss=image_loss,
        text_loss=text_loss,
        logit_scale=s,
        logits=logits,
        image_probabilities=image_probabilities,
        text_probabilities=text_probabilities,
        image_accuracy=_accuracy(logits),
        text_accuracy=_accuracy(logits.T),
        **gradients,
    )


def _directions(features, name):
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    if not lengths.all():
        raise ValueError(f"{name}: row {int(np.argmin(lengths))} is zero, which has no direction")
    return features / lengths, lengths


def _log_sum_exp(values, axis):
    largest = values.max(axis=axis, keepdims=True)
    return np.log(np.exp(values - largest).sum(axis=axis)) + largest.squeeze(axis)


def _through_length(gradient, direction, length):
    """From the derivative with respect to x / |x| to that with respect to x."""
    return (gradient - (gradient * direction).sum(axis=1, keepdims=True) * direction) / length


def _accuracy(logits):
    """The share of rows whose own column is the largest; a tie of m counts 1 / m."""
    own = logits.diagonal()[:, None]
    return float((~(logits > own).any(axis=1) / (logits == own).sum(axis=1)).mean())


@dataclass(frozen=True, eq=False, repr=False)
class ContrastiveLoss(ResultTable):
    """The loss of a batch and what it is made of. It prints as a table, also in Jupyter.

    Attributes
    ----------
    loss : float
        The mean of `image_loss` and `text_loss`, in nats.
    image_loss : float
        Cross-entropy of finding the text of each picture.
    text_loss : float
        Cross-entropy of finding the picture of each text.
    logit_scale : float
    logits : float64 array, (N, N)
        Row: picture; column: text.
    image_probabilities : float64 array, (N, N)
        Of the texts for each picture: rows sum to 1.
    text_probabilities : float64 array, (N, N)
        Of the pictures for each text: columns sum to 1.
    image_accuracy, text_accuracy : float
        How often the own one is the largest, 0 to 1; a tie of m counts 1 / m.
    image_gradient, text_gradient : float64 array (N, D), or None
        With respect to the features as they were given.
    logit_scale_gradient : float or None
        With respect to the scale itself; times the scale, with respect to its logarithm, which CLIP learns.
    """

    loss: float
    image_loss: float
    text_loss: float
    logit_scale: float
    logits: np.ndarray
    image_probabilities: np.ndarray
    text_probabilities: np.ndarray
    image_accuracy: float
    text_accuracy: float
    image_gradient: np.ndarray | None = field(default=None)
    text_gradient: np.ndarray | None = field(default=None)
    logit_scale_gradient: float | None = field(default=None)

    title = "Contrastive loss, in nats (lower is better)"

    def __len__(self):
        """Pairs in the batch."""
        return len(self.logits)

    @property
    def chance(self):
        """The loss of a model to which all pairs look alike: ln N."""
        return math.log(len(self))

    @property
    def summary(self):
        pairs = count(len(self), "pair")
        return (
            f"{pairs}; guessing gives {self.chance:.3f} (ln {len(self)}); logit_scale {self.logit_scale:.4g}"
        )

    def rows(self):
        """A dict for each direction, and for both together.

        Returns
        -------
        list of dict
            direction, n, loss, chance (of the loss), accuracy, chance_accuracy.
        """
        losses = (self.image_loss, self.text_loss, self.loss)
        accuracies = (self.image_accuracy, self.text_accuracy, (self.image_accuracy + self.text_accuracy) / 2)
        return [
            {
                "direction": direction,
                "n": len(self),
                "loss": loss,
                "chance": self.chance,
                "accuracy": accuracy,
                "chance_accuracy": 1 / len(self),
            }
            for direction, loss, accuracy in zip((*_DIRECTIONS, "both"), losses, accuracies)
        ]

    def _header(self):
        return ["direction", "loss", "accuracy in %", "chance in %"]

    def _cells(self, row):
        shares = (row["accuracy"], row["chance_accuracy"])
        return [row["direction"], f"{row['loss']:.4f}", *(percent(share, 1) for share in shares)]

    def __repr__(self):
        return f"<Contrastive loss {self.loss:.4f}, {count(len(self), 'pair')}>"

    def to_dict(self):
        """The figures and matrices, without the gradients, as plain values: ``json.dumps`` takes it."""
        return plain(
            {
                "title": self.title,
                "n": len(self),
                "logit_scale": self.logit_scale,
                "rows": self.rows(),
                "logits": self.logits,
                "image_probabilities": self.image_probabilities,
                "text_probabilities": self.text_probabilities,
            }
        )

    def plot(self, ax=None, *, values="logits", texts=None, images=None):
        """The matrix of the batch: pictures downwards, texts across; the pairs lie on the diagonal.

        Parameters
        ----------
        ax : matplotlib axes, optional
            None: those of a new figure.
        values : {"logits", "cosines", "image_probabilities", "text_probabilities"}
            Probabilities in percent; of `image_probabilities` the rows sum to 100, of `text_probabilities`
            the columns.
        texts : list of str, optional
            Names of the columns; long ones are cut.
        images : list of images, optional
            What stands before the rows: names (str that are no files are taken as such), or pictures as small
            squares.

        Returns
        -------
        matplotlib axes
        """
        matrices = {
            "logits": (self.logits, ".0f", "logit"),
            "cosines": (self.logits / self.logit_scale, ".2f", "cosine"),
            "image_probabilities": (100 * self.image_probabilities, ".0f", "% of the texts, for each image"),
            "text_probabilities": (100 * self.text_probabilities, ".0f", "% of the images, for each text"),
        }
        if values not in matrices:
            raise ValueError(f"values: expected one of {', '.join(matrices)}, got {values!r}")
        matrix, digits, label = matrices[values]
        n = len(self)
        for name, given in (("texts", texts), ("images", images)):
            if given is not None and len(given) != n:
                raise ValueError(f"{name}: expected {n}, one for each pair, got {len(given)}")
        side = 1.2 + 0.45 * min(n, 30)
        ax = axes(ax, (side + 2.2, side + (1.2 if texts else 0)))
        shares = "probabilities" in values
        image = ax.imshow(matrix, cmap="viridis", vmin=0 if shares else None, vmax=100 if shares else None)
        if n <= 16:
            low, high = image.get_clim()
            for i in range(n):
                for j in range(n):
                    colour = "black" if matrix[i, j] > low + 0.6 * (high - low) else "white"
                    weight = "bold" if i == j else "normal"
                    style = {
                        "ha": "center",
                        "va": "center",
                        "fontsize": 8,
                        "color": colour,
                        "fontweight": weight,
                    }
                    ax.text(j, i, format(matrix[i, j], digits), **style)
        if texts is not None:
            ax.set_xticks(range(n), [_shortened(text) for text in texts], rotation=60, ha="right", fontsize=8)
        _row_names(ax, images)
        ax.set_xlabel("text")
        ax.set_title(f"loss {self.loss:.3f}, guessing {self.chance:.3f}", fontsize="medium")
        ax.figure.colorbar(image, ax=ax, shrink=0.7, label=label)
        return ax


def _shortened(text, most=36):
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def _row_names(ax, images):
    """Write or draw what the rows of a matrix are."""
    if images is None:
        ax.set_ylabel("image")
        return
    import os

    if all(isinstance(one, str) and not os.path.isfile(one) for one in images):
        ax.set_yticks(range(len(images)), [_shortened(one) for one in images], fontsize=8)
        return
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage
    from PIL import Image

    from clipc.image import to_rgb

    ax.set_yticks([])
    # A row's height on the page, in points; a pixel of an OffsetImage of zoom 1 is one at 72 dots an inch.
    ax.figure.canvas.draw()
    height = ax.get_window_extent().height / len(images) * 72 / ax.figure.dpi
    for i, one in enumerate(images):
        rgb = to_rgb(one)
        side = min(rgb.shape[:2])
        top, left = (rgb.shape[0] - side) // 2, (rgb.shape[1] - side) // 2
        square = Image.fromarray(rgb[top : top + side, left : left + side]).resize((96, 96))
        box = OffsetImage(np.asarray(square), zoom=0.92 * height / 96)
        place = {
            "xycoords": ("axes fraction", "data"),
            "boxcoords": "offset points",
            "xybox": (-2 - height / 2, 0),
        }
        ax.add_artist(AnnotationBbox(box, (0, i), frameon=False, pad=0, **place))
