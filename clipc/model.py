"""A loaded model: pictures and texts into one space, and what follows from the angles between them."""

from __future__ import annotations

import collections
import os
import threading

import numpy as np

from clipc import _core, image, tokenizer, weights
from clipc.arguments import whole_number
from clipc.errors import NoNetworkError, WeightsError, warn
from clipc.prediction import Prediction, Predictions
from clipc.progress import progress_bar
from clipc.vectors import softmax, unit_rows
from clipc.weights import cache, download
from clipc.weights.layouts import file_stamp

DTYPES = ("float32",)

# Pictures that are preprocessed before they are encoded together: 38 MB at 224 x 224.
DEFAULT_BATCH_SIZE = 64

# Label matrices that a model remembers; one is small (1,000 labels: 2 MB).
CACHED_CLASSIFIERS = 32


class Model:
    """A CLIP model. Made by `load`.

    A model never changes after loading, so any number of threads may use one at the same time. The
    interpreter's lock is free while it encodes. Pickling stores where the weights came from, not the
    weights; unpickling loads them again.

    Attributes
    ----------
    name : str
    embed_dim : int
        D, the size of the space that pictures and texts share.
    image_size : int
        R, the side of the square that pictures are scaled and cropped to, in pixels.
    context_length : int
        Tokens that a text may have, the start and the end token included.
    logit_scale : float
        Factor from cosine to logit, exp of the stored parameter; 100 in OpenAI's models.
    dtype : str
        What the weights are held in.
    config : clipc.weights.ModelConfig
        All sizes, and where the number of heads and the activation were read.
    path : pathlib.Path
        The weight file.
    """

    def __init__(self, core, config, path, *, dtype, weight_files=(), known_as=None):
        self._core = core
        # (path, size, mtime_ns) when they were opened: what `clipc.feature_cache` knows the weights by.
        self._weight_files = tuple(weight_files)
        self.config = config
        self.path = path
        self.dtype = dtype
        self._known_as = known_as  # its name in the zoo
        self._lock = threading.Lock()
        self._classifiers = collections.OrderedDict()
        known = core.known_tokens()
        # None: every token has an embedding, so nothing needs to be looked up.
        self._known_tokens = None if known.all() else known
        self._words_warned_of = set()

    name = property(lambda self: self.config.name)
    embed_dim = property(lambda self: self.config.embed_dim)
    image_size = property(lambda self: self.config.image_size)
    context_length = property(lambda self: self.config.context_length)
    logit_scale = property(lambda self: self._core.logit_scale)

    def __repr__(self):
        return f"<clipc.Model {self.config.summary()}; {self.dtype}>"

    def __reduce__(self):
        # What shapes do not tell goes along: the zoo, which told it, knows the name and not the path.
        heads = (self.config.vision_heads, self.config.text_heads)
        arguments = {"dtype": self.dtype, "activation": self.config.activation, "heads": heads}
        return _load_for_pickle, (str(self.path), arguments, self._known_as)

    # -- pictures ----------------------------------------------------------------------------------------

    def preprocess(self, images, *, exif=False):
        """Scale, crop and normalise pictures as this model expects them.

        Parameters
        ----------
        images : image or list of images
            An image is a path, ``bytes``, a uint8 array (H, W, 3), (H, W) or (H, W, 4), or a PIL image.
        exif : bool
            Turn the picture as its EXIF orientation says.

        Returns
        -------
        float32 array, (N, 3, R, R)
            For a single image N is 1.

        Raises
        ------
        OSError
            A file that cannot be read.
        ImageError
            Bytes that are not a complete image, or an image larger than ``CLIPC_MAX_IMAGE_PIXELS``.
        TypeError, ValueError
            Something that is no image, or an empty list.

        Notes
        -----
        8-bit RGB, the shorter side to R with Pillow's antialiased bicubic filter, the central R x R square,
        (x / 255 - mean) / std: the transform of openai/CLIP's ``clip.load``.
        """
        config = self.config
        return image.preprocess(images, config.image_size, config.image_mean, config.image_std, exif=exif)

    def encode_image(self, images, *, normalize=False, batch_size=None, exif=False, progress=False):
        """The features of pictures.

        Parameters
        ----------
        images : image, list of images, or float32 array (N, 3, R, R)
            See `preprocess`; an array of that form is taken as preprocessed.
        normalize : bool
            Scale each row to length 1.
        batch_size : int, optional
            Pictures that are held preprocessed at the same time (default 64); memory, not results, depend
            on it.
        exif : bool
            Turn pictures as their EXIF orientation says.
        progress : bool
            Show a progress bar on standard error.

        Returns
        -------
        float32 array, (N, D)
            For a single image N is 1.

        Raises
        ------
        OSError, ImageError, TypeError, ValueError
            As `preprocess`.
        KeyboardInterrupt
            Ctrl-C stops between two layers.
        """
        batch_size = whole_number("batch_size", DEFAULT_BATCH_SIZE if batch_size is None else batch_size)
        if isinstance(images, np.ndarray) or not image.is_batch(images):
            features = self._core.encode_images(self.preprocess(images, exif=exif))
            return self._finish(features, normalize)
        images = list(images)
        if not images:
            raise ValueError("images: the list is empty; expected at least one image")
        features = np.empty((len(images), self.embed_dim), np.float32)
        with progress_bar(len(images), "image", progress) as bar:
            for begin in range(0, len(images), batch_size):
                batch = images[begin : begin + batch_size]
                pixels = image.preprocess(
                    batch,
                    self.image_size,
                    self.config.image_mean,
                    self.config.image_std,
                    exif=exif,
                    first_index=begin,
                )
                features[begin : begin + len(batch)] = self._core.encode_images(pixels)
                bar.update(len(batch))
        return self._finish(features, normalize)

    # -- texts -------------------------------------------------------------------------------------------

    def encode_text(self, texts, *, normalize=False, truncate=False):
        """The features of texts.

        Parameters
        ----------
        texts : str, list of str, or int array (N, L)
            An array holds tokens as `clipc.tokenize` makes them, L up to `context_length`.
        normalize : bool
            Scale each row to length 1.
        truncate : bool
            Cut texts that are too long instead of refusing them.

        Returns
        -------
        float32 array, (N, D)
            For a single text N is 1.

        Raises
        ------
        ValueError
            A text with more tokens than `context_length`, an empty list, tokens out of range.
        TypeError
            Something that is no text.

        Warns
        -----
        ClipcWarning
            Once for each word that the model has no embedding for.
        """
        if isinstance(texts, np.ndarray) and texts.dtype.kind in "iu":
            tokens = self._check_tokens(texts)
        else:
            tokens = self._tokenize(texts, truncate)
        return self._finish(self._core.encode_texts(tokens), normalize)

    def knows(self, text):
        """Whether every token of a text has an embedding.

        The embedded model `tiny` has learnt some 18,000 of the 49,408 tokens; the embeddings of the others
        are zero, and a text with one of them is encoded as if there were a gap. OpenAI's models know all.

        Parameters
        ----------
        text : str

        Returns
        -------
        bool
        """
        if not isinstance(text, str):
            raise TypeError(f"text: expected a str, got {type(text).__name__}")
        return not self._unknown_words(text)

    # -- both --------------------------------------------------------------------------------------------

    def similarity(self, images, texts, *, exif=False):
        """The logits of pictures and texts: logit_scale times the cosine of the angle between features.

        Parameters
        ----------
        images : as for `encode_image`, or float32 features (N, D)
        texts : as for `encode_text`

        Returns
        -------
        float32 array, (number of images, number of texts)
        """
        return self._logits(self._image_features(images, exif=exif), self.encode_text(texts, normalize=True))

    def classifier(self, labels, templates=("{}",)):
        """The zero-shot classifier of a list of labels: one unit vector for each.

        Parameters
        ----------
        labels : list of str
            At least one, no two the same.
        templates : str or list of str
            Prompt templates, with ``{}`` where the label goes. With several, a prompt ensemble: the mean of
            the unit features of all prompts of a label, scaled to length 1 again (Radford et al. 2021,
            section 3.1.4, as in openai/CLIP's notebook "Prompt Engineering for ImageNet").

        Returns
        -------
        float32 array, (number of labels, D)
            Read-only: the model keeps it and gives it again for the same labels and templates.

        Raises
        ------
        TypeError, ValueError
            No labels, labels that are no strings, a label twice, a template without ``{}``.
        """
        key = (check_labels(labels), _check_templates(templates))
        with self._lock:
            if key in self._classifiers:
                self._classifiers.move_to_end(key)
                return self._classifiers[key]
        prompts = [template.replace("{}", label) for label in key[0] for template in key[1]]
        features = self.encode_text(prompts, normalize=True).reshape(len(key[0]), len(key[1]), -1)
        matrix = features[:, 0] if len(key[1]) == 1 else unit_rows(features.mean(axis=1))
        matrix = np.ascontiguousarray(matrix)
        matrix.flags.writeable = False
        with self._lock:
            self._classifiers[key] = matrix
            while len(self._classifiers) > CACHED_CLASSIFIERS:
                self._classifiers.popitem(last=False)
        return matrix

    def classify(
        self, images, labels, *, templates=("{}",), top_k=None, batch_size=None, exif=False, progress=False
    ):
        """Zero-shot classification: the probability of each label for each picture.

        Parameters
        ----------
        images : image, list of images, float32 array (N, 3, R, R), or float32 features (N, D) or (D,)
            Features, from `encode_image`, let many label sets share one encoding.
        labels : list of str
        templates : str or list of str
            As for `classifier`; ``"a photo of a {}."`` often works better than the bare label.
        top_k : int, optional
            Keep only the most probable labels.
        batch_size, exif, progress
            As for `encode_image`.

        Returns
        -------
        Prediction or list of Prediction
            One for a single image (or a single feature vector), else a list. A prediction is a dict from
            label to probability, highest first.

        Notes
        -----
        softmax over the labels of logit_scale times cosine (Radford et al. 2021, figure 3). The
        probabilities sum to 1 over the labels that are given: they say which label fits best, not
        whether any fits.
        """
        if top_k is not None:
            top_k = whole_number("top_k", top_k)
        labels = check_labels(labels)
        matrix = self.classifier(labels, templates)
        single = _is_one_image(images)
        features = self._image_features(images, batch_size=batch_size, exif=exif, progress=progress)
        predictions = Predictions(
            Prediction.from_probabilities(labels, row, top_k)
            for row in softmax(self._logits(features, matrix).astype(np.float64))
        )
        return predictions[0] if single else predictions

    # -- explanations ------------------------------------------------------------------------------------

    def grad_cam(
        self, image, text, *, layer=None, method="gradcam", score="logit", labels=None, raw=False,
        image_size=None, fit="crop", exif=False, blocks="all", progress=False,
    ):
        """A heat map: which parts of a picture speak for a text.

        Parameters
        ----------
        image : image, list of images, or float32 array (N, 3, R, R)
            See `preprocess`; an array of that form is taken as preprocessed.
        text : str or list of str
            Texts for the methods that need one; None otherwise.
        layer : str or int, optional
            Target layer of the CAM methods. ModifiedResNet: "layer1" to "layer4" (default), the output of the
            stage, or one block of it, "layer3.1". Vision transformer: a block, negative from the end (default
            -1); its activations are those behind its ``ln_1``, without the class token.
        method : str
            - "gradcam" (Selvaraju et al. 2017), "gradcam++" (Chattopadhay et al. 2018), "layercam" (Jiang et
              al. 2021), "hirescam" (Draelos & Carin 2020): from activations and gradients of the target
              layer;
            - "eigencam" (Muhammad & Yeasin 2020): first principal direction of the activations; no text;
            - "scorecam" (Wang et al. 2020), "gscorecam" (Chen et al. 2022): each channel as a mask before the
              picture, which takes hundreds to thousands of encodings;
            - "relevance" (Chefer et al. 2021), "rollout" (Abnar & Zuidema 2020; no text), "sclip" (Wang et
              al. 2023): vision transformers only;
            - "maskclip" (Zhou et al. 2022), "surgery" (CLIP Surgery, Li et al. 2023): features of each
              position compared with the text.
        score : {"logit", "cosine", "dot", "probability"}
            What is explained: logit_scale times the cosine of the angle between the features, the cosine, the
            product of the features as the model gives them, or the softmax of the logits over `labels`.
        labels : list of str, optional
            For score "probability", and for method "surgery" the texts whose common part is taken out. `text`
            must be among them.
        raw : bool
            Give the signed values on the grid instead, (GH, GW).
        image_size : int, optional
            Side of the square that the model sees, default `image_size`; a multiple of the patch size or of
            32. Larger ones give a finer grid, from a model that was not trained for it.
        fit : {"crop", "squash", "pad"}
            How the picture becomes a square: its centre, as in `classify`; all of it with its proportions
            lost; all of it with margins of the mean colour.
        exif : bool
            Turn the picture as its EXIF orientation says.
        blocks : {"all", "last"}
            For method "relevance".
        progress : bool
            Show a progress bar: over the pictures of a list, or over the channels of a Score-CAM.

        Returns
        -------
        HeatMap or list of HeatMap
            float32 in [0, 1]: (H, W), the size of the original picture, or (N, H, W) for a list of texts; 0
            in the parts that the model did not see. A list for several pictures.

        Raises
        ------
        ValueError, TypeError
            A method or layer that the model does not have (the message lists those it has), an empty text,
            one with more than `context_length` tokens, and other wrong arguments.
        OSError, ImageError
            As `preprocess`.

        Warns
        -----
        ClipcWarning
            A map without a positive value, which is all zeros.

        Notes
        -----
        The signed map loses its negative values, is scaled by (m - min) / (max - min) on the grid, and
        enlarged bilinearly, with half-pixel centres, onto `seen_box`. A heat map shows what moved the score,
        and is no proof of what the model recognised; `docs/explanations.md` measures how far each method can
        be trusted.
        """
        from clipc import cam

        return cam.grad_cam(
            self, image, text, layer=layer, method=method, score=score, labels=labels, raw=raw,
            image_size=image_size, fit=fit, exif=exif, blocks=blocks, progress=progress,
        )

    def difference_map(
        self, image, text, other, *, layer=None, method="gradcam", score="logit", labels=None, raw=False,
        image_size=None, fit="crop", exif=False, blocks="all", progress=False,
    ):
        """Which parts of a picture speak for one text rather than for another.

        Parameters
        ----------
        image : image, list of images, or float32 array (N, 3, R, R)
        text, other : str
        layer, method, score, labels, raw, image_size, fit, exif, blocks, progress
            As for `grad_cam`.

        Returns
        -------
        HeatMap or list of HeatMap
            float32 in [-1, 1], (H, W): the difference of the two signed maps, divided by its largest
            magnitude. Positive where the picture speaks for `text`, negative where it speaks for `other`.

        Raises
        ------
        ValueError, TypeError, OSError, ImageError
            As `grad_cam`; also for a method that needs no text.
        """
        from clipc import cam

        return cam.difference_map(
            self, image, text, other, layer=layer, method=method, score=score, labels=labels, raw=raw,
            image_size=image_size, fit=fit, exif=exif, blocks=blocks, progress=progress,
        )

    def text_relevance(self, image, text, *, score="logit", labels=None, blocks="all", exif=False):
        """Which words of a text carried its score for a picture.

        Parameters
        ----------
        image : image
        text : str
        score, labels
            As for `grad_cam`.
        blocks : {"all", "last"}
            Blocks of the text tower that count.
        exif : bool
            Turn the picture as its EXIF orientation says.

        Returns
        -------
        WordRelevance
            A list of (word, relevance), in the order of the text; words as the tokenizer sees them (lower
            case, punctuation apart), each with the sum over its tokens. Relevance is at least 0 and has no
            unit.

        Raises
        ------
        ValueError, TypeError
            An empty text, one with more than `context_length` tokens, and other wrong arguments.
        OSError, ImageError
            As `preprocess`.

        Notes
        -----
        R[EOT, 1:EOT] of Chefer, Gur & Wolf 2021 (arXiv 2103.15679, equations 5 and 6) in the text tower: from
        the identity, R <- R + mean over heads of max(A * dS/dA, 0) R, block by block.
        """
        from clipc import cam

        return cam.text_relevance(self, image, text, score=score, labels=labels, blocks=blocks, exif=exif)

    @property
    def has_detection_head(self):
        """Whether the model answers with boxes itself, as OWL-ViT and OWLv2 do."""
        return self._core.has_detection_head

    def detect(
        self, image, labels, *, method="auto", threshold=None, nms="default", clip=False, templates=("{}",),
        background=None, boxes=None, max_detections=100, maps=False, image_size=None, exif=False,
        scales=None, stride=None, features=None, batch_size=None, progress=False,
    ):
        """Find objects by their names: boxes for words.

        Parameters
        ----------
        image : image or list of images
            See `preprocess`; not a preprocessed array.
        labels : list of str
            At least one, no two the same.
        method : {"auto", "windows", "dense", "proposals", "owl"}
            - "windows": the picture is covered with square windows on several scales, each is encoded, and
              what they say is averaged into a map for each label;
            - "dense": one pass over the whole picture, whose features at each place are compared with the
              labels;
            - "proposals": given boxes are encoded one by one: `boxes`, or those that stand out in a dense
              pass;
            - "owl": the boxes of a model that has a detection head, OWL-ViT or OWLv2;
            - "auto" (default): "owl" where the model has a detection head, else "windows".
        threshold : float, optional
            Least score of a detection, 0 to 1. Default 0.4; for "proposals" 0.25, for "owl" 0.1.
        nms : float, "soft" or None
            Of two boxes of a label that overlap by more than this IoU the lower one goes; "soft" lowers its
            score instead (Soft-NMS, Bodla et al. 2017), None keeps it. Default 0.5; for "owl" None, as
            transformers.
        clip : bool
            For "owl": cut boxes at the edges of the picture. Those of the other methods never reach beyond,
            except given `boxes`, which come back as they were.
        templates : str or list of str
            As for `classifier`.
        background : list of str, optional
            Words for what is no object; a label competes with them and with the other labels. None: those of
            `clipc.detection.BACKGROUND`; an empty list: none.
        boxes : array (N, 4), optional
            For "proposals": x0, y0, x1, y1, pixels of the original picture. Each gets its best label; those
            that show nothing of the picture are left out.
        max_detections : int
            Most detections for a picture.
        maps : bool
            Also give the score map of each label, float32 (H, W).
        image_size : int, optional
            Pixels along the side of a crop ("windows", "proposals"; default `image_size`), or along the
            shorter side of the picture ("dense"; default twice `image_size`, at least 224).
        exif : bool
            Turn the picture as its EXIF orientation says; boxes are those of the turned picture.
        scales, stride : sequence of float, float
            For "windows": sides as shares of the picture's shorter side, and the largest step as a share of a
            window's side. Defaults (1, 0.7, 0.5, 0.35, 0.25) and 0.34.
        features : {"maskclip", "sclip", "surgery"}, optional
            For "dense" and the boxes of "proposals": how features of places are made; see `grad_cam`. Default
            "sclip" for a vision transformer, "maskclip" for a ModifiedResNet.
        batch_size : int, optional
            Crops that are encoded together (default 64).
        progress : bool
            Show a progress bar.

        Returns
        -------
        Detections or list of Detections
            A list of `Detection`, highest score first; a list of them for a list of pictures.

        Raises
        ------
        ValueError, TypeError
            No labels, a method that the model does not have, and other wrong arguments.
        OSError, ImageError
            As `preprocess`.

        Notes
        -----
        But for "owl", scores are softmax probabilities of the label among labels and background. "windows"
        and "dense" halve the logits first, and average over windows; "proposals" does not. They can be
        compared between pictures, not between methods. `docs/detection.md` tells how well each method does.
        """
        from clipc import detection

        return detection.detect(
            self, image, labels, method=method, threshold=threshold, nms=nms, clip=clip, templates=templates,
            background=background, boxes=boxes, max_detections=max_detections, maps=maps,
            image_size=image_size, exif=exif, scales=scales, stride=stride, features=features,
            batch_size=batch_size, progress=progress,
        )

    def detect_by_image(
        self, image, query, *, query_box=None, label="query", threshold=0.0, nms=0.3, clip=False,
        max_detections=100, image_size=None, exif=False, progress=False,
    ):
        """Find in a picture what another picture shows, with a model that has a detection head.

        Parameters
        ----------
        image : image or list of images
        query : image
            A picture of the object.
        query_box : tuple of float, optional
            (x0, y0, x1, y1): the object in `query`, in its pixels. Without it OWL-ViT takes the whole
            picture, and OWLv2 what looks most like an object.
        label : str
            The label that the detections get.
        threshold : float
            Least score, 0 to 1. Scores are relative to the best box, which has 1.
        nms : float
            Of two boxes that overlap by more than this IoU the lower one goes; 1 keeps all.
        clip, max_detections, image_size, exif, progress
            As for `detect`.

        Returns
        -------
        Detections or list of Detections

        Raises
        ------
        ValueError, TypeError, OSError, ImageError
            As `detect`; also for a model without a detection head, and a box outside of `query`.

        Notes
        -----
        The image-guided detection of Minderer et al. 2022 (arXiv 2205.06230, section 3.3), with the choice of
        the query and the scores of transformers' ``post_process_image_guided_detection``.
        """
        from clipc import detection

        return detection.detect_by_image(
            self, image, query, query_box=query_box, label=label, threshold=threshold, nms=nms, clip=clip,
            max_detections=max_detections, image_size=image_size, exif=exif, progress=progress,
        )

    def seen_box(self, image, fit="crop", *, image_size=None, exif=False):
        """The part of a picture that the model sees.

        Parameters
        ----------
        image : image
        fit, image_size, exif
            As for `grad_cam`.

        Returns
        -------
        tuple of float
            (x0, y0, x1, y1), in pixels of the original picture: left, top, right and bottom edge.
        """
        from clipc import cam

        return cam.seen_box(self, image, fit, image_size=image_size, exif=exif)

    # -- helpers -----------------------------------------------------------------------------------------

    def _image_features(self, images, *, batch_size=None, exif=False, progress=False):
        """Unit features of pictures, or of what already are features."""
        if isinstance(images, np.ndarray) and images.dtype.kind == "f" and images.ndim in (1, 2):
            features = np.atleast_2d(images).astype(np.float32, copy=False)
            if features.shape[1] != self.embed_dim or not len(features):
                raise ValueError(f"features: expected shape (N, {self.embed_dim}), got {images.shape}")
            if not np.isfinite(features).all():
                raise ValueError("features: expected finite numbers, got NaN or infinity")
            return unit_rows(features)
        return self.encode_image(images, normalize=True, batch_size=batch_size, exif=exif, progress=progress)

    def _logits(self, image_features, text_features):
        return np.float32(self.logit_scale) * (image_features @ text_features.T)

    def _check_finite(self, results):
        # Inputs are checked, so this comes from the weights: a NaN in a file, or sums that overflow.
        if not np.isfinite(results).all():
            raise WeightsError(
                f"{self.name}: its features are not finite numbers; the weights in {self.path} are damaged"
            )

    def _finish(self, features, normalize):
        self._check_finite(features)
        return unit_rows(features) if normalize else features

    def _tokenize(self, texts, truncate=False):
        """The tokens of texts for this model, after one warning of all words that it does not know."""
        if self.config.vocab_size != tokenizer.VOCAB_SIZE:
            raise ValueError(
                f"{self.name}: its vocabulary has {self.config.vocab_size} tokens, clipc's tokenizer "
                f"{tokenizer.VOCAB_SIZE}; pass tokens instead of text"
            )
        texts = tokenizer.as_text_list(texts)
        tokens = tokenizer.tokenize(texts, context_length=self.context_length, truncate=truncate)
        self._warn_of_unknown_words(texts, tokens)
        return tokens

    def _check_tokens(self, tokens):
        if tokens.ndim != 2 or not len(tokens):
            raise ValueError(f"tokens: expected shape (N, up to {self.context_length}), got {tokens.shape}")
        if tokens.min() < 0 or tokens.max() >= self.config.vocab_size:
            raise ValueError(
                f"tokens: expected 0 to {self.config.vocab_size - 1}, got {tokens.min()} to {tokens.max()}"
            )
        return tokens.astype(np.int32, copy=False)

    def _unknown_words(self, text):
        if self._known_tokens is None:
            return []
        return [word for word, ids in tokenizer.split_words(text) if not self._known_tokens[ids].all()]

    def _warn_of_unknown_words(self, texts, tokens):
        if self._known_tokens is None:
            return
        # Rows are padded with token 0, the exclamation mark, which may itself be unknown.
        used = self._known_tokens[tokens] | (tokens == 0)
        rows = np.flatnonzero(~used.all(axis=1))
        words = [word for row in rows for word in self._unknown_words(texts[row])]
        with self._lock:
            new = [word for word in dict.fromkeys(words) if word not in self._words_warned_of]
            self._words_warned_of.update(new)
        if new:
            named = ", ".join(repr(word) for word in new[:10]) + (
                f" and {len(new) - 10} more" if new[10:] else ""
            )
            warn(
                f"the model {self.name!r} has no embedding for {named}, so a text with such a word is read "
                "as if the word were missing; Model.knows(text) tells beforehand"
            )


def load(name_or_path=None, *, dtype="float32", activation=None, heads=None, cache_dir=None):
    """Load a model.

    Parameters
    ----------
    name_or_path : str or os.PathLike, optional
        A name of `available_models` or ``owner/name`` of a repository of the Hugging Face hub, which is
        downloaded if it is not in the cache; a ``.safetensors``, ``.pt`` or ``.bin`` file, or a folder with
        weights and configuration, in OpenAI's, OpenCLIP's or Hugging Face's naming. None: the default model,
        which is what the environment variable ``CLIPC_MODEL`` names, else OpenAI's ViT-B/32 from the cache or
        a download, else, without a network, the embedded model `tiny`, with one warning that says so. A name
        never falls back.
    dtype : {"float32"}
        What the weights are held in and computed with. Features are float32 always.
    activation : {"quick_gelu", "gelu"}, optional
        Of the transformers' MLPs, when neither a configuration file nor the weight file tells.
    heads : int or (int, int), optional
        Attention heads of the image tower, or of the image and the text tower; likewise.
    cache_dir : path, optional
        Where named models lie and are downloaded to; else ``CLIPC_CACHE``, else the user's cache folder.

    Returns
    -------
    Model

    Raises
    ------
    FileNotFoundError
        No such file, or a named model that is not in the cache while ``CLIPC_OFFLINE`` is set.
    DownloadError
        The model could not be downloaded; the message says why and what remains. What has arrived is kept.
    WeightsError
        A file that is damaged or holds no CLIP model: the message names the tensor, the expected and the
        found shape.
    ValueError, TypeError
        Wrong arguments.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype: expected one of {', '.join(DTYPES)}, got {dtype!r}")
    if name_or_path is None:
        if activation is None and heads is None and cache_dir is None:
            return default_model()
        name_or_path = _choose_default(cache_dir)
    return _load(name_or_path, dtype, {"activation": activation, "heads": heads, "cache_dir": cache_dir})


def _load(name_or_path, dtype, options, known_as=None):
    config, state = weights.open_model(name_or_path, known_as=known_as, **options)
    with state:
        weight_files = [file_stamp(path.absolute()) for path in state.files]
        core = _core.Model(config.to_core(), state.read)
        state.check_all_used()
    if config.name in weights.named_models() and "zoo" in config.sources.values():
        known_as = config.name
    path = state.path.absolute()
    return Model(core, config, path, dtype=dtype, weight_files=weight_files, known_as=known_as)


def _load_for_pickle(path, arguments, known_as=None):
    options = dict(arguments)
    return _load(path, options.pop("dtype"), options, known_as)


_default_model = None
_default_model_lock = threading.Lock()
_why_no_network = None  # looked for once a process


def default_model():
    """The model that functions use when none is given; loaded once a process. See `load`."""
    global _default_model
    with _default_model_lock:
        if _default_model is None:
            _default_model = _load(_choose_default(), "float32", {})
        return _default_model


def _choose_default(cache_dir=None):
    """What the default model is loaded from: a name, a path, or an entry of the zoo. Downloads it."""
    global _why_no_network
    asked = os.environ.get("CLIPC_MODEL")
    if asked:
        return asked
    entry = weights.named_models()[weights.DEFAULT_MODEL]
    if weights.cached_weights(entry, cache_dir):
        return entry
    if download.offline():
        reason = "CLIPC_OFFLINE forbids to download it"
    else:
        if _why_no_network is None:
            _why_no_network = download.reachable(cache.addresses(entry)) or ""
        reason = _why_no_network
    if not reason:
        try:
            cache.fetch(entry, cache_dir, advice=_HOW_TO_AVOID)
            return entry
        except NoNetworkError as error:
            reason = _why_no_network = str(error)
        except OSError as error:
            raise type(error)(
                f"{error}. No model was chosen, so clipc wanted its default, {entry.name}: {_HOW_TO_AVOID}"
            ) from error
    warn(
        "no model was chosen, so clipc uses the small embedded model 'tiny', because its default, OpenAI's "
        f"{entry.name}, is not in the cache, and {reason}. tiny knows about 300 everyday things at 64 x 64 "
        "pixels, and nothing of faces, professions or landmarks. Set CLIPC_MODEL, or load a model with "
        "clipc.load(path), for more."
    )
    return weights.EMBEDDED_FILE


_HOW_TO_AVOID = "CLIPC_MODEL names another model (tiny is a part of clipc), CLIPC_OFFLINE=1 forbids downloads"


def default_model_in_words():
    """Which model is used when none is given, without loading or downloading it.

    Returns
    -------
    str
    """
    asked = os.environ.get("CLIPC_MODEL")
    if asked:
        return asked
    entry = weights.named_models()[weights.DEFAULT_MODEL]
    if weights.cached_weights(entry):
        return entry.name
    if download.offline():
        return f"tiny ({entry.name} is not in the cache, and CLIPC_OFFLINE is set)"
    return f"{entry.name} (downloaded when first used; without a network, tiny)"


def set_num_threads(n):
    """Set the number of threads that clipc computes with.

    Parameters
    ----------
    n : int
        1 or more. The default is the number of processors that the process may use (its affinity mask and
        its control group's quota).
    """
    _core.set_num_threads(whole_number("n", n))


def get_num_threads():
    """The number of threads that clipc computes with."""
    return _core.get_num_threads()


def show_config(mode="stdout"):
    """Tell what clipc was built with and what it uses on this computer.

    Parameters
    ----------
    mode : {"stdout", "dicts"}
        Print a table, or return the same as a dict.
    """
    if mode not in ("stdout", "dicts"):
        raise ValueError(f"mode: expected 'stdout' or 'dicts', got {mode!r}")
    import platform

    import clipc

    build = _core.build_info()
    products = f"{build['blas']} ({build['blas_core']} kernels)"
    if build["gemm_kernels"] != "OpenBLAS":
        products = f"clipc {build['gemm_kernels']}; without weights: {products}"
    config = {
        "clipc": clipc.__version__,
        "Python": platform.python_version(),
        "NumPy": np.__version__,
        "compiler": build["compiler"],
        "processor": f"{platform.machine()}, {build['isa_detected']}",
        "instruction set used": build["isa"],
        "row kernels": build["elementwise_kernels"],
        "matrix products": products,
        "threads": get_num_threads(),
        "model cache": str(weights.cache_folder()),
        "default model": default_model_in_words(),
    }
    if mode == "dicts":
        return config
    width = max(map(len, config))
    print("\n".join(f"{key:<{width}}  {value}" for key, value in config.items()))


def _is_one_image(images):
    if isinstance(images, np.ndarray) and images.dtype.kind == "f":
        return images.ndim == 1
    return not image.is_batch(images)


def check_labels(labels):
    """The labels as a tuple; an error unless they are one text or more, all different."""
    if isinstance(labels, (str, bytes)):
        raise TypeError(
            f"labels: expected a list of texts, got the single text {labels!r}; write [{labels!r}]"
        )
    labels = tuple(tokenizer.as_text_list(labels, "labels"))
    twice = [label for label, count in collections.Counter(labels).items() if count > 1]
    if twice:
        raise ValueError(f"labels: {twice[0]!r} is given more than once")
    return labels


def _check_templates(templates):
    templates = tuple(tokenizer.as_text_list(templates, "templates"))
    for template in templates:
        if "{}" not in template:
            raise ValueError(f"templates: {template!r} has no {{}} where the label goes")
    return templates
