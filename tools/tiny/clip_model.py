"""CLIP in PyTorch, as small as training needs it; parameters carry OpenAI's names.

Shapes: B images or texts, T tokens, C width, NH heads, HS head size, D embedding size. Parameters are
created in a fixed order, so a seed gives the same initial weights.
"""

from collections import OrderedDict

import torch
import torch.nn as nn
import torch.nn.functional as F


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions around a residual; strides are average pools (anti-aliased)."""

    def __init__(self, in_channels, planes, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.avgpool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.conv3 = nn.Conv2d(planes, planes * 4, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes * 4)
        self.downsample = None
        if stride > 1 or in_channels != planes * 4:
            pool, conv = nn.AvgPool2d(stride), nn.Conv2d(in_channels, planes * 4, 1, bias=False)
            self.downsample = nn.Sequential(
                OrderedDict([("-1", pool), ("0", conv), ("1", nn.BatchNorm2d(planes * 4))])
            )

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.avgpool(out)
        out = self.bn3(self.conv3(out))
        if self.downsample is not None:
            x = self.downsample(x)
        return F.relu(out + x)


class AttnPool(nn.Module):
    """Attention pool: the mean of all positions asks, all positions and the mean answer."""

    def __init__(self, side, width, heads, out):
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.randn(side**2 + 1, width) / width**0.5)
        self.k_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.c_proj = nn.Linear(width, out)
        self.heads = heads

    def forward(self, x):  # (B, C, H, W) -> (B, D)
        x = x.flatten(2).permute(0, 2, 1)
        x = torch.cat([x.mean(1, keepdim=True), x], 1) + self.positional_embedding
        B, _, C = x.shape

        def split(t):  # (B, T, C) -> (B, NH, T, HS)
            return t.view(B, -1, self.heads, C // self.heads).transpose(1, 2)

        q, k, v = split(self.q_proj(x[:, :1])), split(self.k_proj(x)), split(self.v_proj(x))
        out = F.scaled_dot_product_attention(q, k, v)
        return self.c_proj(out.transpose(1, 2).reshape(B, C))


class RN(nn.Module):
    """ModifiedResNet: a stem of three convolutions, four stages, an attention pool."""

    def __init__(self, layers, out, heads, resolution, width):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width // 2, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width // 2)
        self.conv2 = nn.Conv2d(width // 2, width // 2, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width // 2)
        self.conv3 = nn.Conv2d(width // 2, width, 3, 1, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        channels = width
        for stage in range(4):
            planes = width * 2**stage
            blocks = [Bottleneck(channels, planes, 1 if stage == 0 else 2)]
            channels = planes * 4
            blocks += [Bottleneck(channels, planes) for _ in range(1, layers[stage])]
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.attnpool = AttnPool(resolution // 32, width * 32, heads, out)

    def forward(self, x):
        for k in (1, 2, 3):
            x = F.relu(getattr(self, f"bn{k}")(getattr(self, f"conv{k}")(x)))
        x = F.avg_pool2d(x, 2)
        for k in range(1, 5):
            x = getattr(self, f"layer{k}")(x)
        return self.attnpool(x)


class QuickGELU(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    """Residual attention block with LayerNorm before each half."""

    def __init__(self, width, heads):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_1 = nn.LayerNorm(width)
        c_fc, c_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.mlp = nn.Sequential(OrderedDict([("c_fc", c_fc), ("gelu", QuickGELU()), ("c_proj", c_proj)]))
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, x, mask=None):
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    def __init__(self, width, layers, heads):
        super().__init__()
        self.resblocks = nn.ModuleList([Block(width, heads) for _ in range(layers)])

    def forward(self, x, mask=None):
        for block in self.resblocks:
            x = block(x, mask)
        return x


class CLIP(nn.Module):
    """An image tower and the text tower beside it."""

    def __init__(self, visual, out, context=77, vocab=49408, width=256, layers=4, heads=4):
        super().__init__()
        self.visual = visual
        self.transformer = Transformer(width, layers, heads)
        self.token_embedding = nn.Embedding(vocab, width)
        self.positional_embedding = nn.Parameter(torch.randn(context, width) * 0.01)
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.randn(width, out) * width**-0.5)
        self.logit_scale = nn.Parameter(torch.tensor(2.6593))
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        residual_std = width**-0.5 * (2 * layers) ** -0.5
        for block in self.transformer.resblocks:
            nn.init.normal_(block.attn.in_proj_weight, std=width**-0.5)
            nn.init.normal_(block.attn.out_proj.weight, std=residual_std)
            nn.init.normal_(block.mlp.c_fc.weight, std=(2 * width) ** -0.5)
            nn.init.normal_(block.mlp.c_proj.weight, std=residual_std)

    def encode_text(self, tokens):  # (B, T) -> (B, D)
        T = tokens.shape[1]
        x = self.token_embedding(tokens) + self.positional_embedding[:T]
        mask = torch.full((T, T), float("-inf")).triu(1).to(x.dtype)
        x = self.ln_final(self.transformer(x, mask))
        return x[torch.arange(len(tokens)), tokens.argmax(-1)] @ self.text_projection
