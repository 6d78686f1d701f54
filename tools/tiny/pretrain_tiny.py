"""Pre-train the embedded model `tiny` from scratch, in two stages, on two CPU cores.

Stage 1 trains the image encoder against a free unit vector per concept (588 of them): cross-entropy
over the 300 class names plus, with weight 0.4, over all names that hold (hypernyms).

Stage 2 trains the text encoder so that each caption of a concept, with or without adjectives, lands on
the concept's vector (contrastive cross-entropy plus cosine). Other WordNet nouns land near their nearest
trained relatives, and words without any land on the mean direction, which says nothing.

Training both encoders against each other from the start collapsed to some five dimensions in an hour of
CPU time; this order does not. See README.md for the data and the times.
"""

import argparse
import glob
import importlib.util
import math
import random
import re
import time

import nouns as wn
import numpy as np
import torch
import torch.nn.functional as F
from clip_model import CLIP, RN, Bottleneck
from concepts import SUPERCLASSES, TEMPLATES, build
from PIL import Image
from safetensors.torch import save_file

MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(1, 3, 1, 1) * 255
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(1, 3, 1, 1) * 255
SIZE, DIM = 64, 256


def load_tokenizer():
    """OpenAI's tokenizer, from its file alone: importing its package would need torchvision."""
    path = importlib.util.find_spec("clip").submodule_search_locations[0] + "/simple_tokenizer.py"
    spec = importlib.util.spec_from_file_location("simple_tokenizer", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.SimpleTokenizer()


def load_images(args, wnids, cifar):
    paths, label = [], []
    for i, w in enumerate(wnids):
        found = sorted(glob.glob(f"{args.tiny_imagenet}/train/{w}/images/*.JPEG"))
        paths += found
        label += [i] * len(found)
    for i, c in enumerate(cifar):
        found = sorted(glob.glob(f"{args.cifar100}/train/{c}/*.png"))
        paths += found
        label += [len(wnids) + i] * len(found)
    X = np.empty((len(paths), SIZE, SIZE, 3), np.uint8)
    for k, p in enumerate(paths):
        im = Image.open(p).convert("RGB")
        X[k] = np.asarray(im if im.size == (SIZE, SIZE) else im.resize((SIZE, SIZE), Image.BICUBIC))
    return torch.from_numpy(X), np.array(label)


def augment(batch):
    """Random resized crop, flip, brightness, colour shift: uint8 (B, 64, 64, 3) -> float (B, 3, 64, 64)."""
    B = len(batch)
    x = (batch.permute(0, 3, 1, 2).float() - MEAN) / STD
    s = torch.empty(B).uniform_(0.45, 1).sqrt()
    r = torch.empty(B).uniform_(-0.25, 0.25).exp()
    sx, sy = (s * r).clamp(max=1), (s / r).clamp(max=1)
    flip = (torch.rand(B) < 0.5).float() * 2 - 1
    theta = torch.zeros(B, 2, 3)
    theta[:, 0, 0] = sx * flip
    theta[:, 1, 1] = sy
    theta[:, 0, 2] = (torch.rand(B) * 2 - 1) * (1 - sx)
    theta[:, 1, 2] = (torch.rand(B) * 2 - 1) * (1 - sy)
    x = F.grid_sample(
        x, F.affine_grid(theta, x.shape, align_corners=False), align_corners=False, padding_mode="reflection"
    )
    x = x * torch.empty(B, 1, 1, 1).uniform_(0.8, 1.2) + torch.empty(B, 3, 1, 1).uniform_(-0.15, 0.15)
    return x.contiguous(memory_format=torch.channels_last)


def schedule(opt, base, fraction, step, warmup):
    for g, b in zip(opt.param_groups, base):
        g["lr"] = b * min(1, (step + 1) / warmup) * (0.5 * (1 + math.cos(math.pi * fraction)) + 0.002)


def stage1(visual, X, y, classes, n_concepts, seconds):
    leaf = torch.tensor([c[0] for c in classes])
    member = torch.zeros(len(classes), n_concepts)
    for i, (_, held) in enumerate(classes):
        member[i, held] = 1
    W = member / member.sum(0).clamp(min=1).sqrt()
    W[torch.arange(len(classes)), leaf] = 0
    W = W / W.sum(1, keepdim=True).clamp(min=1e-6)
    E = torch.nn.Parameter(torch.randn(n_concepts, DIM) * 0.06)
    log_scale = torch.nn.Parameter(torch.tensor(2.6593))
    P = list(visual.parameters())
    base = [2e-3, 2e-3, 4e-3]
    opt = torch.optim.AdamW(
        [
            {"params": [p for p in P if p.ndim > 1], "weight_decay": 0.05},
            {"params": [p for p in P if p.ndim <= 1], "weight_decay": 0},
            {"params": [E, log_scale], "weight_decay": 0},
        ],
        betas=(0.9, 0.98),
        eps=1e-6,
        fused=True,
    )
    start, step, pos, B = time.time(), 0, len(X), 512
    visual.train().to(memory_format=torch.channels_last)
    while (done := (time.time() - start) / seconds) < 1:
        schedule(opt, base, done, step, 200)
        if pos + B > len(X):
            order, pos = np.random.permutation(len(X)), 0
        idx = np.sort(order[pos : pos + B])
        pos += B
        label = torch.from_numpy(y[idx])
        with torch.autocast("cpu", torch.bfloat16):
            f = visual(augment(X[idx]))
        logits = log_scale.exp() * F.normalize(f.float(), dim=-1) @ F.normalize(E, dim=-1).T
        loss = (
            F.cross_entropy(logits[:, leaf], label, label_smoothing=0.05)
            - 0.4 * (W[label] * F.log_softmax(logits, 1)).sum(1).mean()
        )
        opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(P, 1.0)
        opt.step()
        with torch.no_grad():
            log_scale.clamp_(0, 3.7)
        step += 1
        if step % 200 == 0:
            print(f"stage 1: {time.time() - start:.0f} s, step {step}, loss {loss.item():.3f}", flush=True)
    visual.eval()
    return F.normalize(E.detach(), dim=-1), log_scale.detach()


def stage2(
    model, E, classes, names, synonyms, noun_targets, noun_counts, adjectives, neutral, tokens, seconds
):
    leaves = [c[0] for c in classes]
    mean = F.normalize(E[leaves].mean(0), dim=0)
    nouns = sorted(noun_targets)
    V = torch.zeros(len(nouns), DIM)
    for i, n in enumerate(nouns):
        for c, w in noun_targets[n].items():
            V[i] += w * E[c]
    V = F.normalize(V, dim=-1)
    often = torch.tensor([math.log1p(noun_counts[n]) + 0.4 for n in nouns])
    P = [p for n, p in model.named_parameters() if not n.startswith("visual.")]
    opt = torch.optim.AdamW(
        [
            {"params": [p for p in P if p.ndim > 1], "weight_decay": 0.01},
            {"params": [p for p in P if p.ndim <= 1], "weight_decay": 0},
        ],
        betas=(0.9, 0.98),
        eps=1e-6,
        fused=True,
    )

    def fill(words):
        return random.choice(TEMPLATES).format(words)

    start, step, K, M, Z = time.time(), 0, 160, 96, 40
    while (done := (time.time() - start) / seconds) < 1:
        schedule(opt, [1e-3, 1e-3], done, step, 150)
        concepts = [
            random.choice(leaves) if random.random() < 0.7 else random.randrange(len(names)) for _ in range(K)
        ]
        word = [random.choice(synonyms[c]) if random.random() < 0.4 else synonyms[c][0] for c in concepts]
        texts = [
            fill(
                " ".join(random.sample(adjectives, random.choice((1, 1, 2))) + [w])
                if random.random() < 0.25
                else w
            )
            for w in word
        ]
        some = torch.multinomial(often, M, replacement=True).tolist()
        texts += [
            fill((random.choice(adjectives) + " " if random.random() < 0.25 else "") + nouns[i]) for i in some
        ]
        texts += [
            fill(
                random.choice(
                    [
                        random.choice(neutral),
                        random.choice(neutral),
                        random.choice(adjectives) + " " + random.choice(neutral),
                        random.choice(adjectives),
                    ]
                )
            )
            for _ in range(Z)
        ]
        with torch.autocast("cpu", torch.bfloat16):
            f = model.encode_text(tokens(texts))
        f = F.normalize(f.float(), dim=-1)
        target = torch.tensor(concepts)
        loss = (
            F.cross_entropy(20 * f[:K] @ E.T, target)
            + 5 * (1 - (f[:K] * E[target]).sum(1)).mean()
            + 2 * (1 - (f[K : K + M] * V[some]).sum(1)).mean()
            + 0.7 * (1 - f[K + M :] @ mean).mean()
        )
        opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(P, 1.0)
        opt.step()
        step += 1
        if step % 200 == 0:
            print(f"stage 2: {time.time() - start:.0f} s, step {step}, loss {loss.item():.3f}", flush=True)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny-imagenet", required=True)
    parser.add_argument("--cifar100", required=True)
    parser.add_argument("--wordnet", required=True)
    parser.add_argument("--stage1-seconds", type=float, default=4300)
    parser.add_argument("--stage2-seconds", type=float, default=1700)
    parser.add_argument("--out", default="tiny.safetensors")
    args = parser.parse_args()
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    tokenizer = load_tokenizer()
    wnids, cifar, classes, names, synonyms = build(args.tiny_imagenet, args.cifar100, args.wordnet)
    synsets, senses = wn.read(args.wordnet)
    adjectives = wn.adjectives(args.wordnet)
    noun_targets = {
        n: t
        for n, t in wn.targets(
            synsets, senses, wn.concept_synsets(synsets, senses, wnids, cifar, classes, names, SUPERCLASSES)
        ).items()
        if n not in names
    }
    neutral = [
        n
        for n, (_, tagged) in senses.items()
        if tagged and n not in noun_targets and n not in names and re.fullmatch(r"[a-z][a-z ]{1,18}", n)
    ]
    words = [n for s in synonyms for n in s] + list(noun_targets) + adjectives + neutral
    used = sorted(
        {i for w in words for i in tokenizer.encode(w)}
        | {i for s in synonyms for n in s for t in TEMPLATES for i in tokenizer.encode(t.format(n))}
    ) + [49406, 49407]
    row = {t: i for i, t in enumerate(used)}
    cache = {}

    def tokens(texts):
        for t in texts:
            if t not in cache:
                cache[t] = [row[i] for i in [49406, *tokenizer.encode(t), 49407]]
        out = torch.zeros(len(texts), max(len(cache[t]) for t in texts), dtype=torch.long)
        for i, t in enumerate(texts):
            out[i, : len(cache[t])] = torch.tensor(cache[t])
        return out

    visual = RN([2, 2, 2, 2], DIM, 16, SIZE, 32)
    for module in visual.modules():
        if isinstance(module, Bottleneck):
            torch.nn.init.zeros_(module.bn3.weight)
    model = CLIP(visual, DIM, vocab=len(used), width=128, layers=4, heads=2)
    X, y = load_images(args, wnids, cifar)
    E, log_scale = stage1(visual, X, y, classes, len(names), args.stage1_seconds)
    noun_counts = {n: senses[n][1] for n in noun_targets}
    stage2(
        model, E, classes, names, synonyms, noun_targets, noun_counts, adjectives, neutral, tokens,
        args.stage2_seconds,
    )  # fmt: skip
    with torch.no_grad():
        model.logit_scale.copy_(log_scale)
    state = {
        k: v.detach().clone() for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")
    }
    embedding = torch.zeros(49408, state["token_embedding.weight"].shape[1])
    embedding[torch.tensor(used)] = state["token_embedding.weight"]
    state["token_embedding.weight"] = embedding  # tokens never seen in training stay zero
    save_file(
        {k: (v.half() if v.ndim > 1 else v.float()).contiguous() for k, v in state.items()},
        args.out,
        metadata={"format": "pt", "activation": "quick_gelu", "name": "tiny"},
    )


if __name__ == "__main__":
    main()
