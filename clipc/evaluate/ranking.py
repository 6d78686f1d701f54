"""Retrieval: does a picture find its captions, and a caption its picture?

Recall@k as in the literature on COCO and Flickr30K (Karpathy & Fei-Fei 2015; Radford et al. 2021, table 13):
the share of queries that have one that belongs to them among the k nearest. Recall falls as the collection
grows, so numbers of collections of different sizes cannot be compared; the chance level stands beside them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from clipc import tokenizer
from clipc.arguments import whole_number
from clipc.as_function import resolve_model
from clipc.evaluate.pictures import Pictures, cosines, encode
from clipc.evaluate.results import ResultTable, axes, plain, settings_of, settings_text
from clipc.evaluate.statistics import bootstrap_share_interval, wilson
from clipc.labelled_images import LabelledImages, read_labelled_images
from clipc.progress import progress_bar
from clipc.tables import count, percent, percent_range
from clipc.vectors import draw_positions, unit_rows

IMAGE_TO_TEXT = "image to text"
TEXT_TO_IMAGE = "text to image"

# Texts that are encoded together, and queries that are compared with the whole collection at once.
_TEXTS = 256
_QUERIES = 512


def retrieval(
    data,
    *,
    model=None,
    column="caption",
    k=(1, 5, 10),
    template="{}",
    truncate=False,
    batch_size=None,
    exif=False,
    limit=None,
    seed=0,
    cache=True,
    skip_unreadable=False,
    progress=False,
):
    """Recall@k from pictures to their captions, and from captions to their pictures.

    Parameters
    ----------
    data : path, LabelledImages, or (images, captions)
        A CSV file, or a folder with ``labels.csv``, with a row for each caption; rows with the same `file`
        are captions of one picture. Or a tuple: a list of images, a float32 array (N, 3, R, R) of
        preprocessed pictures or (N, D) of features; and for each a caption, or a list of captions.
    model : Model, or what `clipc.load` takes, optional
        None: the default model.
    column : str
        Of the CSV, with the captions.
    k : int or sequence of int
        Those that are not smaller than both collections, and so always hold, are left out.
    template : str
        With ``{}`` where the caption goes.
    truncate : bool
        Cut captions with more tokens than the model's `context_length`, and count them, instead of raising.
    batch_size, exif
        As for `clipc.Model.encode_image`.
    limit : int, optional
        Use only so many pictures, drawn at random, with all their captions.
    seed : int
        Of that draw, and of the bootstrap.
    cache, skip_unreadable, progress
        As for `zero_shot`. A picture that is left out takes its captions along.

    Returns
    -------
    RetrievalEvaluation
        Prints as a table, also in Jupyter.

    Raises
    ------
    ValueError
        Fewer than two pictures; an unknown column; an empty caption; one that is too long, without
        `truncate`.
    TypeError
        Arguments of a wrong kind.
    OSError, ImageError
        A picture that cannot be read, without `skip_unreadable`.
    KeyboardInterrupt
        Ctrl-C stops between two batches; with `cache`, the pictures encoded so far need not be encoded again.

    Warns
    -----
    ClipcWarning
        Once for each word without an embedding; the result's `n_unknown` counts such captions.

    Notes
    -----
    Ranks are by cosine. From a picture, one of its captions among the first k is enough; from a caption, its
    picture must be there. Among equal cosines, such as those of a caption that two pictures share, the order
    is random and what counts is the expected value.

    A caption's success depends on its picture, so intervals from text to image are bootstrapped over
    pictures, with all their captions; where every query agrees, which leaves nothing to draw, and where each
    picture has one caption, they are Wilson's, as from image to text. The intervals are about other queries,
    in the same collection.
    """
    model = resolve_model(model)
    ks = _check_k(k)
    if not isinstance(template, str):
        raise TypeError(f"template: expected a str, got {type(template).__name__}")
    if "{}" not in template:
        raise ValueError(f"template: expected {{}} where the caption goes, got {template!r}")
    pictures, captions = _read(data, column)
    if limit is not None and whole_number("limit", limit) < len(captions):
        drawn = draw_positions(len(captions), limit, seed)
        pictures, captions = pictures.take(drawn), [captions[i] for i in drawn]
    n_truncated = _check_lengths(model, captions, pictures.names, template, truncate)

    image_features, kept, unreadable = encode(
        model,
        pictures,
        cache=cache,
        batch_size=batch_size,
        exif=exif,
        skip_unreadable=skip_unreadable,
        progress=progress,
    )
    captions = [captions[i] for i in kept]
    if len(captions) < 2:
        raise ValueError("data: expected at least two images to choose from, got 1")
    texts = [caption for several in captions for caption in several]
    image_of = np.repeat(np.arange(len(captions)), [len(several) for several in captions])
    text_features = _encode_texts(model, [template.replace("{}", text) for text in texts], truncate, progress)
    unknown = sum(not model.knows(text) for text in texts)

    settings = settings_of(model)
    if template != "{}":
        settings["template"] = repr(template)
    if exif:
        settings["exif"] = True
    if limit is not None:
        settings["limit"] = limit
    settings["seed"] = seed
    return RetrievalEvaluation(
        find_ranks(image_features, text_features, image_of),
        image_of=image_of,
        k=ks,
        files=[pictures.names[i] for i in kept],
        captions=texts,
        n_truncated=n_truncated,
        n_unknown=unknown,
        unreadable=unreadable,
        source=pictures.source,
        settings=settings,
        seed=seed,
    )


@dataclass(frozen=True)
class Ranks:
    """Where what belongs to each of Q queries lies among N items, ordered by similarity.

    Attributes
    ----------
    above : int array, (Q,)
        Items that are nearer than the nearest one that belongs to the query.
    tied : int array, (Q,)
        Items that are as near as that, itself among them.
    own : int array, (Q,)
        How many of those belong to the query.
    belonging : int array, (Q,)
        Items that belong to the query, wherever they lie.
    n_items : int
    """

    above: np.ndarray
    tied: np.ndarray
    own: np.ndarray
    belonging: np.ndarray
    n_items: int

    @classmethod
    def from_similarity(cls, similarity, belongs):
        """From similarities (Q, N) and which items belong to which query, a bool array (Q, N)."""
        best = np.where(belongs, similarity, -np.inf).max(axis=1, keepdims=True)
        equal = similarity == best
        return cls(
            above=(similarity > best).sum(axis=1),
            tied=equal.sum(axis=1),
            own=(equal & belongs).sum(axis=1),
            belonging=belongs.sum(axis=1),
            n_items=similarity.shape[1],
        )

    @classmethod
    def joined(cls, parts):
        """The ranks of several groups of queries to the same items."""
        fields = ("above", "tied", "own", "belonging")
        arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in fields}
        return cls(n_items=parts[0].n_items, **arrays)

    def hits(self, k):
        """The chance that one of the first k belongs to the query, ties in random order: float64 (Q,)."""
        return _chance_of_one(self.tied, self.own, np.clip(k - self.above, 0, self.tied))

    def chance(self, k):
        """The same for items in random order: float64 (Q,)."""
        drawn = np.full(len(self.belonging), min(k, self.n_items))
        return _chance_of_one(np.full(len(self.belonging), self.n_items), self.belonging, drawn)

    def expected(self):
        """The rank of the first that belongs to the query, from 1, its expected value among ties."""
        return self.above + (self.tied + 1) / (self.own + 1)


def _chance_of_one(items, belonging, drawn):
    """The chance that of `items` at least one of the `belonging` is among `drawn` ones: hypergeometric."""
    try:
        from scipy.stats import hypergeom
    except ImportError:
        raise ImportError(
            "recall needs scipy, which is not installed: pip install 'clipc[analysis]'"
        ) from None
    # Few different cases among many queries.
    cases, which = np.unique(np.stack([items, belonging, drawn]), axis=1, return_inverse=True)
    # Rounding errors of the logarithms inside: 1 - 1e-13 is 1.
    chances = np.clip(1 - hypergeom.pmf(0, *cases), 0, 1)
    certain = cases[2] > cases[0] - cases[1]
    return np.where(certain, 1.0, np.where(cases[2] == 0, 0.0, chances))[which.ravel()]


def find_ranks(image_features, text_features, image_of):
    """Ranks in both directions.

    Parameters
    ----------
    image_features : float array (N, D)
    text_features : float array (M, D)
    image_of : int array (M,)
        The picture that each text belongs to.

    Returns
    -------
    dict from "image to text" and "text to image" to Ranks
    """
    image_of = np.asarray(image_of)
    images, texts = unit_rows(image_features), unit_rows(text_features)
    everyone = np.arange(len(images))
    return {
        IMAGE_TO_TEXT: Ranks.joined(
            [
                Ranks.from_similarity(cosines(images[some], texts), everyone[some, None] == image_of)
                for some in _slices(len(images))
            ]
        ),
        TEXT_TO_IMAGE: Ranks.joined(
            [
                Ranks.from_similarity(cosines(texts[some], images), image_of[some, None] == everyone)
                for some in _slices(len(texts))
            ]
        ),
    }


def _slices(n):
    return [slice(begin, begin + _QUERIES) for begin in range(0, n, _QUERIES)]


class RetrievalEvaluation(ResultTable):
    """Recall in both directions. It prints as a table, also in Jupyter.

    Attributes
    ----------
    ranks : dict from "image to text" and "text to image" to `Ranks`
    k : tuple of int
    files : tuple of str
        The pictures' names.
    captions : tuple of str
    image_of : int array
        The picture of each caption.
    n_truncated : int
        Captions that were cut.
    n_unknown : int
        Captions with words that the model has no embedding for.
    unreadable : list of (str, str)
        Name and reason of each picture that was left out.
    source : str
    settings : dict
        What the numbers depend on.
    """

    title = "Recall@k, in % (higher is better)"

    def __init__(
        self,
        ranks,
        *,
        image_of,
        k,
        files,
        captions,
        n_truncated=0,
        n_unknown=0,
        unreadable=(),
        source="given images",
        settings=None,
        seed=0,
    ):
        self.ranks = dict(ranks)
        self.image_of = np.asarray(image_of)
        self.files = tuple(files)
        self.captions = tuple(captions)
        self.n_truncated = n_truncated
        self.n_unknown = n_unknown
        self.unreadable = list(unreadable)
        self.source = source
        self.settings = dict(settings or {})
        self.k = tuple(one for one in k if one == 1 or one < max(len(self.files), len(self.captions)))
        self._rows = [self._row(direction, seed) for direction in self.ranks]

    def __len__(self):
        """Pictures."""
        return len(self.files)

    def _row(self, direction, seed):
        ranks = self.ranks[direction]
        n = len(ranks.above)
        row = {"direction": direction, "n": n, "n_items": ranks.n_items}
        for k in self.k:
            hits = ranks.hits(k)
            row[f"recall{k}"] = float(hits.mean())
            row[f"recall{k}_low"], row[f"recall{k}_high"] = self._interval(direction, hits, seed)
            row[f"chance{k}"] = float(ranks.chance(k).mean())
        expected = ranks.expected()
        row["median_rank"] = float(np.median(expected))
        row["mean_rank"] = float(expected.mean())
        return row

    def _interval(self, direction, hits, seed):
        n_images = len(self.files)
        clustered = direction == TEXT_TO_IMAGE and len(self.captions) > n_images
        if clustered and hits.min() < hits.max():
            return bootstrap_share_interval(hits, self.image_of, seed=seed)
        return wilson(hits.mean() * n_images, n_images)

    def rows(self):
        """A dict for each direction; shares are between 0 and 1.

        Returns
        -------
        list of dict
            direction, n (queries), n_items (what is searched); recall1, recall1_low, recall1_high, chance1,
            and so on for each k; median_rank, mean_rank of the first that belongs to the query, from 1.
        """
        return [dict(row) for row in self._rows]

    @property
    def summary(self):
        text = f"{count(len(self.files), 'picture')} with {count(len(self.captions), 'caption')}"
        if self.unreadable:
            text += f"; {count(len(self.unreadable), 'picture')} unreadable"
        if self.n_truncated:
            text += f"; {count(self.n_truncated, 'caption')} cut"
        return f"{text}; {settings_text(self.settings)}"

    def _header(self):
        header = ["direction"]
        for k in self.k:
            header += [f"R@{k}", "95 % interval", "chance"]
        return [*header, "median rank", "of"]

    def _cells(self, row):
        cells = [row["direction"]]
        for k in self.k:
            bounds = row[f"recall{k}_low"], row[f"recall{k}_high"]
            cells += [percent(row[f"recall{k}"], 1), percent_range(bounds, 1), percent(row[f"chance{k}"], 1)]
        return [*cells, f"{row['median_rank']:g}", str(row["n_items"])]

    def _notes(self):
        if not self.n_unknown:
            return []
        verb = "holds" if self.n_unknown == 1 else "hold"
        return [
            f"{self.n_unknown} of {count(len(self.captions), 'caption')} {verb} words that the model has no "
            "embedding for"
        ]

    def __repr__(self):
        first = self.k[0]
        rows = ", ".join(
            f"{row['direction']} R@{first} {percent(row[f'recall{first}'], 1)}" for row in self._rows
        )
        return f"<Retrieval, {count(len(self.files), 'picture')}: {rows}>"

    def to_dict(self):
        """Everything but the single ranks, as plain values: ``json.dumps`` takes it."""
        return plain(
            {
                "title": self.title,
                "settings": self.settings,
                "source": os.fspath(self.source),
                "n_pictures": len(self.files),
                "n_captions": len(self.captions),
                "n_truncated": self.n_truncated,
                "n_unknown": self.n_unknown,
                "rows": self.rows(),
                "unreadable": self.unreadable,
            }
        )

    def plot(self, ax=None):
        """Bars of recall with 95 % intervals, a group for each k; ticks across them mark chance.

        Parameters
        ----------
        ax : matplotlib axes, optional
            None: those of a new figure.

        Returns
        -------
        matplotlib axes
        """
        ax = axes(ax, (2.6 + 1.1 * len(self.k), 3.4))
        width = 0.38
        for j, row in enumerate(self._rows):
            values, low, high, chance = (
                100 * np.array([row[f"{name}{k}{end}"] for k in self.k])
                for name, end in (("recall", ""), ("recall", "_low"), ("recall", "_high"), ("chance", ""))
            )
            places = np.arange(len(self.k)) + (j - 0.5) * width
            ax.bar(places, values, 0.92 * width, label=row["direction"], color=f"C{j}")
            error = np.maximum([values - low, high - values], 0)
            ax.errorbar(places, values, error, fmt="none", ecolor="#333333", elinewidth=1, capsize=2)
            ends = places - width / 2, places + width / 2
            ax.hlines(chance, *ends, color="#888888", linestyle="--", label=None if j else "chance")
        ax.set_xticks(range(len(self.k)), [f"R@{k}" for k in self.k])
        ax.set_ylabel("recall in %")
        model = self.settings.get("model", "")
        sizes = f"{len(self.files)} images, {len(self.captions)} captions"
        ax.set_title(f"Retrieval, {model}, {sizes}", fontsize="medium")
        ax.spines[["top", "right"]].set_visible(False)
        ax.set_ylim(0)
        ax.legend(frameon=False, fontsize="small")
        return ax


# ---- arguments ----


def _check_k(k):
    ks = [k] if not hasattr(k, "__iter__") else list(k)
    ks = sorted({whole_number("k", one) for one in ks})
    if not ks:
        raise ValueError("k: expected at least one number, got none")
    return tuple(ks)


def _read(data, column):
    """The different pictures, and a list of captions for each."""
    if isinstance(data, (str, os.PathLike)):
        data = read_labelled_images(data)
    if isinstance(data, LabelledImages):
        texts = data.filled_column(column)
        first, captions = {}, []
        for i, path in enumerate(data.paths):
            if path not in first:
                first[path] = i
                captions.append([])
        position = {path: j for j, path in enumerate(first)}
        for path, text in zip(data.paths, texts):
            captions[position[path]].append(text)
        images = data.take(list(first.values()))
        return Pictures(images, list(images.files), [""] * len(images), data.source), captions
    if not (isinstance(data, tuple) and len(data) == 2):
        raise TypeError(
            "data: expected a folder, a CSV file, LabelledImages or (images, captions), "
            f"got {type(data).__name__}"
        )
    images, captions = data
    if not isinstance(images, (list, tuple, np.ndarray)):
        raise TypeError(f"data: expected a list of images or an array, got {type(images).__name__}")
    if isinstance(captions, str) or len(captions) != len(images):
        found = 1 if isinstance(captions, str) else len(captions)
        raise ValueError(f"data: expected captions for each image, got {len(images)} images and {found}")
    images = images if isinstance(images, np.ndarray) and images.dtype.kind == "f" else list(images)
    captions = [[one] if isinstance(one, str) else list(one) for one in captions]
    names = [
        os.fspath(image) if isinstance(image, (str, os.PathLike)) else f"image {i}"
        for i, image in enumerate(images)
    ]
    for name, several in zip(names, captions):
        if not several:
            raise ValueError(f"data: {name} has no caption; leave it out")
        for caption in several:
            if not isinstance(caption, str):
                raise TypeError(f"data: expected captions as str, got {type(caption).__name__} for {name}")
            if not caption.strip():
                raise ValueError(f"data: a caption of {name} is empty; leave it out")
    if not names:
        raise ValueError("data: there are no images")
    return Pictures(images, names, [""] * len(names), "given images"), captions


def _check_lengths(model, captions, names, template, truncate):
    """How many captions have to be cut; an error without `truncate`."""
    n_long = 0
    for name, several in zip(names, captions):
        for caption in several:
            n_tokens = 2 + len(tokenizer.encode(template.replace("{}", caption)))
            if n_tokens > model.context_length:
                n_long += 1
                if not truncate:
                    shown = caption if len(caption) <= 60 else caption[:57] + "..."
                    raise ValueError(
                        f"data: a caption of {name} has {n_tokens} tokens, the model takes "
                        f"{model.context_length}: {shown!r}; truncate=True cuts it"
                    )
    return n_long


def _encode_texts(model, texts, truncate, progress):
    """The features of texts, each different one encoded once: float32 (number of texts, D)."""
    different = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    # Tokens of all at once, so that there is one warning of unknown words.
    tokens = model._tokenize(list(different), truncate)
    features = np.empty((len(tokens), model.embed_dim), np.float32)
    with progress_bar(len(tokens), "text", progress) as bar:
        for begin in range(0, len(tokens), _TEXTS):
            batch = tokens[begin : begin + _TEXTS]
            features[begin : begin + len(batch)] = model.encode_text(batch)
            bar.update(len(batch))
    return features[[different[text] for text in texts]]


__all__ = ["IMAGE_TO_TEXT", "TEXT_TO_IMAGE", "Ranks", "RetrievalEvaluation", "find_ranks", "retrieval"]
