"""The sizes of a CLIP model, as one value that every oracle is built from."""

import dataclasses
import re

HEAD_WIDTH = 64
ACTIVATIONS = ("quick_gelu", "gelu")


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Everything that determines a CLIP model except its weights.

    Attributes
    ----------
    name : str
        What tests call it; also part of their ids.
    vision_layers : int or tuple of int
        Blocks of a vision transformer, or the four stages of a ModifiedResNet.
    patch_size : int or None
        None for a ModifiedResNet.
    vision_heads, text_heads : int or None
        None means the width divided by 64; for a ModifiedResNet, the heads of its attention pool.
    vision_mlp, text_mlp : int or None
        Hidden width of the MLPs; None means four times the width. Without meaning for a ModifiedResNet.
    activation : {"quick_gelu", "gelu"}
        Of the transformers' MLPs; a ModifiedResNet uses ReLU in any case.
    """

    name: str
    embed_dim: int
    image_size: int
    vision_layers: int | tuple[int, ...]
    vision_width: int
    patch_size: int | None = None
    vision_heads: int | None = None
    vision_mlp: int | None = None
    text_width: int = 512
    text_layers: int = 12
    text_heads: int | None = None
    text_mlp: int | None = None
    context_length: int = 77
    vocab_size: int = 49408
    activation: str = "quick_gelu"

    def __post_init__(self):
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation: expected one of {ACTIVATIONS}, got {self.activation!r}")
        fill = {
            "vision_heads": self.pooled_width // HEAD_WIDTH,
            "vision_mlp": 4 * self.vision_width,
            "text_heads": self.text_width // HEAD_WIDTH,
            "text_mlp": 4 * self.text_width,
        }
        for field, value in fill.items():
            if getattr(self, field) is None:
                object.__setattr__(self, field, value)
        for tower, width, heads in (("vision", self.pooled_width, self.vision_heads),
                                    ("text", self.text_width, self.text_heads)):
            if heads < 1 or width % heads:
                raise ValueError(f"{self.name}: {heads} {tower} heads do not divide a width of {width}")

    @property
    def is_vit(self):
        """Whether the image side is a vision transformer."""
        return self.patch_size is not None

    @property
    def pooled_width(self):
        """Width of the tokens that image attention works on."""
        return self.vision_width if self.is_vit else 32 * self.vision_width

    @property
    def grid(self):
        """Rows (and columns) of the last feature map or of the patches."""
        return self.image_size // (self.patch_size or 32)

    @property
    def heads(self):
        """Heads of the image side and of the text side."""
        return self.vision_heads, self.text_heads

    @classmethod
    def from_state_dict(cls, state_dict, activation=None, heads=None, name="loaded"):
        """Read the sizes from the shapes of an OpenAI-named state dict.

        Parameters
        ----------
        state_dict : mapping of str to tensor
        activation : str, optional
            Default "quick_gelu"; a file of weights does not say.
        heads : int or (int, int), optional
            Heads of the image side, or of both sides; default the widths divided by 64.
        """
        shape = {key: tuple(value.shape) for key, value in state_dict.items()}
        vision_heads, text_heads = heads if isinstance(heads, (tuple, list)) else (heads, None)
        if "visual.proj" in shape:
            vision_width, _, _, patch_size = shape["visual.conv1.weight"]
            vision_layers = _count(shape, r"visual\.transformer\.resblocks\.(\d+)\.")
            vision_mlp = shape["visual.transformer.resblocks.0.mlp.c_fc.weight"][0]
            grid, cell = _grid(shape["visual.positional_embedding"]), patch_size
        else:
            vision_width = shape["visual.layer1.0.conv1.weight"][0]
            vision_layers = tuple(_count(shape, rf"visual\.layer{stage}\.(\d+)\.") for stage in (1, 2, 3, 4))
            patch_size = vision_mlp = None
            grid, cell = _grid(shape["visual.attnpool.positional_embedding"]), 32
        vocab_size, text_width = shape["token_embedding.weight"]
        return cls(
            name=name,
            embed_dim=shape["text_projection"][1],
            image_size=grid * cell,
            vision_layers=vision_layers,
            vision_width=vision_width,
            patch_size=patch_size,
            vision_heads=vision_heads,
            vision_mlp=vision_mlp,
            text_width=text_width,
            text_layers=_count(shape, r"transformer\.resblocks\.(\d+)\."),
            text_heads=text_heads,
            text_mlp=shape["transformer.resblocks.0.mlp.c_fc.weight"][0],
            context_length=shape["positional_embedding"][0],
            vocab_size=vocab_size,
            activation=activation or "quick_gelu",
        )


def _count(names, pattern):
    return len({match.group(1) for match in (re.match(pattern, name) for name in names) if match})


def _grid(positional_shape):
    grid = round((positional_shape[0] - 1) ** 0.5)
    if grid * grid + 1 != positional_shape[0]:
        raise ValueError(f"positional embedding: {positional_shape[0]} rows are no square grid and one token")
    return grid
