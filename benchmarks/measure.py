"""What the benchmarks share: interleaved timing, fresh processes, the description of the machine, goals."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

import clipc

# Contenders run in turns; the first turns only warm caches and thread pools.
WARMUP_ROUNDS = 2
# Between two contenders: OpenMP's threads wait actively for a few milliseconds after a parallel region, and
# would take a processor from whoever runs next.
PAUSE = 0.02

MB = 1e6


class Goal(NamedTuple):
    """One line of the table at the end. `at_most` is None where there is a figure but no goal."""

    what: str
    figure: float
    at_most: float | None
    unit: str
    detail: str

    @property
    def verdict(self):
        """Whether the goal is met, in one word."""
        if self.at_most is None:
            return ""
        return "ok" if self.figure <= self.at_most else "MISSED"


def interleave(contenders, rounds, warmup=WARMUP_ROUNDS):
    """Time contenders in turns: A B C A B C ...

    On a machine that is not alone, or whose clock varies, two figures compare only if they were taken in the
    same moments; the best of many rounds is the one that was disturbed least.

    Parameters
    ----------
    contenders : dict of str to callable
        A callable that returns a float has measured itself (such as a fresh process); else it is timed.
    rounds : int

    Returns
    -------
    dict of str to list of float
        Seconds, or what the callables returned, without the rounds of warming up.
    """
    times = {name: [] for name in contenders}
    for _ in range(warmup + rounds):
        for name, call in contenders.items():
            start = time.perf_counter()
            result = call()
            elapsed = time.perf_counter() - start
            times[name].append(result if isinstance(result, float) else elapsed)
            time.sleep(PAUSE)
    return {name: values[warmup:] for name, values in times.items()}


def interleave_with(benchmark, subject, rivals, rounds):
    """Let pytest-benchmark time `subject`, and its rivals in between.

    Before each round of the subject, pytest-benchmark calls a set-up function, which it does not time; the
    rivals run there. So the statistics of pytest-benchmark are those of the subject, and all contenders
    still take turns.

    Returns
    -------
    dict of str to float
        The best time of each contender in seconds, that of the subject under "clipc"; None when timing is
        switched off (``--benchmark-disable``).
    """
    times = {name: [] for name in rivals}

    def run_rivals():
        for name, call in rivals.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
            time.sleep(PAUSE)

    benchmark.pedantic(subject, setup=run_rivals, rounds=rounds, warmup_rounds=WARMUP_ROUNDS)
    if benchmark.stats is None:
        return None
    best = {name: min(values[WARMUP_ROUNDS:]) for name, values in times.items()}
    return {"clipc": benchmark.stats.stats.min, **best}


class FreshProcess:
    """Runs pieces of Python in processes of their own.

    Byte code is kept in a folder that belongs to this object, so that the first run of each piece compiles
    what it imports and the others do not, as in an installation, whatever ``PYTHONDONTWRITEBYTECODE`` says.
    """

    def __init__(self):
        self._cache = tempfile.TemporaryDirectory(prefix="clipc-bytecode-")
        self._environment = dict(os.environ, PYTHONPYCACHEPREFIX=self._cache.name)
        self._environment.pop("PYTHONDONTWRITEBYTECODE", None)
        # The child must find the clipc that this process found.
        path = [str(Path(clipc.__file__).resolve().parents[1]), os.environ.get("PYTHONPATH")]
        self._environment["PYTHONPATH"] = os.pathsep.join(filter(None, path))

    def run(self, code, *arguments):
        """The JSON value that `code` prints; `arguments` are its ``sys.argv[1:]``."""
        command = [sys.executable, "-c", code, *map(str, arguments)]
        # Not the folder of the caller: it might hold something that shadows a module.
        result = subprocess.run(
            command, env=self._environment, cwd=self._cache.name, capture_output=True, text=True
        )
        if result.returncode:
            raise RuntimeError(f"a measured process failed:\n{result.stderr}")
        return json.loads(result.stdout)

    def close(self):
        """Remove the byte code."""
        self._cache.cleanup()


def vit_b_32_shapes():
    """Names and shapes of the tensors of ViT-B/32, as OpenAI has them."""

    def transformer(prefix, width, layers):
        shapes = {}
        for i in range(layers):
            block = f"{prefix}resblocks.{i}."
            for norm in ("ln_1", "ln_2"):
                shapes |= {f"{block}{norm}.weight": (width,), f"{block}{norm}.bias": (width,)}
            shapes |= {
                f"{block}attn.in_proj_weight": (3 * width, width),
                f"{block}attn.in_proj_bias": (3 * width,),
            }
            linear = {
                "attn.out_proj": (width, width),
                "mlp.c_fc": (4 * width, width),
                "mlp.c_proj": (width, 4 * width),
            }
            for name, shape in linear.items():
                shapes |= {f"{block}{name}.weight": shape, f"{block}{name}.bias": shape[:1]}
        return shapes

    def norm(name, width):
        return {f"{name}.weight": (width,), f"{name}.bias": (width,)}

    return {
        "visual.conv1.weight": (768, 3, 32, 32),
        "visual.class_embedding": (768,),
        "visual.positional_embedding": (50, 768),
        **norm("visual.ln_pre", 768),
        **transformer("visual.transformer.", 768, 12),
        **norm("visual.ln_post", 768),
        "visual.proj": (768, 512),
        "token_embedding.weight": (49408, 512),
        "positional_embedding": (77, 512),
        **transformer("transformer.", 512, 12),
        **norm("ln_final", 512),
        "text_projection": (512, 512),
        "logit_scale": (),
    }


def write_random_weights(path, shapes, seed=0):
    """Write a float32 ``.safetensors`` file without holding it in memory.

    One block of random numbers serves all tensors, scaled by their fan-in. That is enough to load and to
    encode with finite numbers; it is no model to compare results with.
    """
    header, position = {}, 0
    for name, shape in shapes.items():
        end = position + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    block = np.random.default_rng(seed).standard_normal(1 << 20, dtype=np.float32)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes.items():
            count = math.prod(shape)
            if name == "logit_scale":
                file.write(np.float32(math.log(100)).tobytes())
                continue
            is_gain = ".ln_" in f".{name}" and name.endswith("weight")
            scale = np.float32(math.prod(shape[1:]) ** -0.5 if len(shape) > 1 else 0.1)
            values = block * scale + np.float32(is_gain)
            for begin in range(0, count, len(values)):
                file.write(values[: count - begin].tobytes())


def machine(load):
    """What the figures were taken on, as lines of text; `load` is the load average before the run."""
    config = clipc.show_config("dicts")
    versions = [f"Python {config['Python']}", f"NumPy {config['NumPy']}", f"clipc {config['clipc']}"]
    # Of those that are loaded anyway; importing them for their version takes seconds.
    loaded = [name for name in ("torch", "transformers") if name in sys.modules]
    versions += [f"{name} {sys.modules[name].__version__}" for name in loaded]
    isa = f"{config['processor']}; used: {config['instruction set used']}"
    lines = [
        f"processor: {_processor()}, {os.cpu_count()} CPUs, {isa}",
        f"threads: {config['threads']}; load average at the start: {load:.2f}",
        f"matrix products: {config['matrix products']}",
        "versions: " + ", ".join(versions),
    ]
    if load > 0.5:
        lines.append("other programs were running: the ratios may flatter clipc, and the times say little")
    for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
        if name in os.environ:
            lines.append(f"{name}={os.environ[name]} is set and slows OpenBLAS down: unset it")
    return lines


def _processor():
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            info = dict(line.split(":", 1) for line in file if ":" in line)
        keys = {key.strip(): value.strip() for key, value in info.items()}
        return f"{keys['model name']} (family {keys['cpu family']}, model {keys['model']})"
    except (OSError, KeyError):
        return platform.processor() or platform.machine()
