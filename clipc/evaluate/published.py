"""Figures that were published about CLIP, to stand beside measured ones.

All are of Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision"
(arXiv 2103.00020). They were read in the text of the paper: the lists of figures 5 and 13 (right), section
3.1.4 for the prompts, section 3.1.5 for the few-shot crossing. None was measured with clipc, and none is
about the embedded model `tiny`.
"""

from __future__ import annotations

from clipc.evaluate.results import axes

SOURCE = "Radford et al. 2021"

# Figure 5: accuracy of zero-shot CLIP (the best model, ViT-L/14@336px) minus that of a logistic regression
# that was fitted to all training images on features of a ResNet-50 trained on ImageNet. Percentage points;
# the metric of a few data sets is another than accuracy (table 9 of the paper).
PUBLISHED_ZERO_SHOT_MINUS_PROBE = {
    "StanfordCars": 28.9,
    "Country211": 23.2,
    "Food101": 22.5,
    "Kinetics700": 14.5,
    "SST2": 12.4,
    "SUN397": 7.8,
    "UCF101": 7.7,
    "HatefulMemes": 6.7,
    "CIFAR10": 3.9,
    "CIFAR100": 3.0,
    "STL10": 3.0,
    "FER2013": 2.8,
    "Caltech101": 2.0,
    "ImageNet": 1.9,
    "OxfordPets": 1.1,
    "PascalVOC2007": 0.5,
    "Birdsnap": -3.2,
    "MNIST": -10.0,
    "FGVCAircraft": -11.3,
    "RESISC45": -11.9,
    "Flowers102": -12.5,
    "DTD": -16.6,
    "CLEVRCounts": -18.2,
    "GTSRB": -18.4,
    "PatchCamelyon": -19.5,
    "KITTI Distance": -34.0,
    "EuroSAT": -37.1,
}

# Figure 13, right: top-1 accuracy in percent of a ResNet-101 trained on ImageNet, and of zero-shot CLIP
# ViT-L/14@336px.
PUBLISHED_ROBUSTNESS = {
    "ImageNet": (76.2, 76.2),
    "ImageNetV2": (64.3, 70.1),
    "ImageNet-R": (37.7, 88.9),
    "ObjectNet": (32.6, 72.3),
    "ImageNet Sketch": (25.2, 60.2),
    "ImageNet-A": (2.7, 77.1),
}

# Section 3.1.4: what prompts add to accuracy on ImageNet, in percentage points, each to the line above.
PUBLISHED_PROMPTS = {
    "label alone": 0.0,
    '"a photo of a {label}."': 1.3,
    "ensemble of 80 prompts": 3.5,
}

# Section 3.1.5 and figure 6: labelled images of each class at which a probe on CLIP's own features reaches
# zero-shot CLIP, mean over 20 data sets.
PUBLISHED_SHOTS_TO_MATCH_ZERO_SHOT = 4


def plot_zero_shot_minus_probe(measured=None, ax=None):
    """The published figure 5 as bars, with measured differences among them.

    Parameters
    ----------
    measured : dict from str to float, optional
        Name of the data set to accuracy of zero-shot minus accuracy of a linear probe, in percentage points.
        They have a colour of their own, for they are of another model and of other features.
    ax : matplotlib axes, optional
        None: those of a new figure.

    Returns
    -------
    matplotlib axes
    """
    bars = [(name, value, False) for name, value in PUBLISHED_ZERO_SHOT_MINUS_PROBE.items()]
    bars += [(name, value, True) for name, value in (measured or {}).items()]
    bars.sort(key=lambda bar: bar[1])
    ax = axes(ax, (6.4, 0.8 + 0.22 * len(bars)))
    for own, colour, label in (
        (False, "#9a9a9a", f"published: CLIP against ResNet-50 features ({SOURCE})"),
        (True, "#d1495b", "measured here: one model's zero-shot against its own features"),
    ):
        places = [i for i, bar in enumerate(bars) if bar[2] == own]
        if places:
            ax.barh(places, [bars[i][1] for i in places], color=colour, label=label)
    for i, (_, value, _) in enumerate(bars):
        side = 1 if value >= 0 else -1
        place = {"ha": "left" if side > 0 else "right", "va": "center", "fontsize": 7}
        ax.text(value + 0.5 * side, i, f"{value:+.1f}", **place)
    ax.axvline(0, color="#333333", linewidth=1)
    ax.set_yticks(range(len(bars)), [bar[0] for bar in bars], fontsize=8)
    ax.set_ylim(-0.7, len(bars) - 0.3)
    ax.margins(x=0.1)
    ax.set_xlabel("zero-shot minus linear probe, percentage points")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.4, -0.1))
    return ax
