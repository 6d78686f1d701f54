"""GFLOP/s of matrix products against the peak of the processor, measured in the same process.

    python benchmarks/roofline.py                 # the products of ViT-B/32 with one image
    python benchmarks/roofline.py ViT-L/14 8      # another model, other numbers of images
    python benchmarks/roofline.py RN50 --threads 1

The peak is what a loop of independent multiply-adds in registers reaches with the same threads; a C compiler
has to be there. Peak and products take turns, and the best of each counts. As in a model, each product has
weights of its own, more in all than the caches hold.
"""

import argparse
import ctypes
import os
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from clipc import _core, set_num_threads

PEAK_SOURCE = """
#if defined(__AVX512F__)
#define BYTES 64
#elif defined(__AVX__)
#define BYTES 32
#else
#define BYTES 16
#endif
#define CHAINS 12
#if defined(__clang__)
#define FOR_EACH_CHAIN _Pragma("clang loop unroll(full)") for (int c = 0; c < CHAINS; c++)
#else
#define FOR_EACH_CHAIN _Pragma("GCC unroll 12") for (int c = 0; c < CHAINS; c++)
#endif
typedef float vector __attribute__((vector_size(BYTES)));

/* Multiply-adds of CHAINS independent vectors; returns how many floating-point operations that were. */
double run(long rounds, float *out)
{
    vector sums[CHAINS], a, b;
    for (unsigned i = 0; i < BYTES / 4; i++) {
        a[i] = 0.999f;
        b[i] = 0.001f;
        for (int c = 0; c < CHAINS; c++) {
            sums[c][i] = 0.01f * c;
        }
    }
    for (long r = 0; r < rounds; r++) {
        FOR_EACH_CHAIN
        {
            sums[c] = sums[c] * a + b;
        }
    }
    for (int c = 0; c < CHAINS; c++) {
        *out += sums[c][0];
    }
    return 2.0 * CHAINS * (BYTES / 4) * rounds;
}
"""
# One visual transformer: tokens of an image, width, layers.
TRANSFORMERS = {"ViT-B/32": (50, 768, 12), "ViT-B/16": (197, 768, 12), "ViT-L/14": (257, 1024, 24)}
CACHE_BYTES = 64e6  # more than the last-level cache of the processors that were measured
PEAK_ROUNDS = 1_000_000


class Product:
    """y (m, n) = x (m, k) @ W.T, `count` times in a model."""

    def __init__(self, name, m, n, k, count, activation="none"):
        self.name, self.m, self.n, self.k = name, m, n, k
        self.count, self.activation = count, activation
        self.copies = min(count if count > 3 else 12, int(CACHE_BYTES // (4 * n * k)) + 2)
        self.best = float("inf")

    @property
    def flops(self):
        """Of one product."""
        return 2 * self.m * self.n * self.k

    def measure(self):
        """Run it, and keep the best time."""
        seconds = _core.op_time_linear(
            self.m, self.n, self.k, copies=self.copies, rounds=4, activation=self.activation
        )
        self.best = min(self.best, float(seconds[1:].min()))


def products_of_transformer(name, images):
    """The products of a vision transformer's blocks."""
    tokens, c, layers = TRANSFORMERS[name]
    m = tokens * images
    return [
        Product("attention: q, k, v", m, 3 * c, c, layers),
        Product("attention: output", m, c, c, layers),
        Product("MLP: in, QuickGELU", m, 4 * c, c, layers, "quick_gelu"),
        Product("MLP: out", m, c, 4 * c, layers),
    ]


def products_of_rn50(images):
    """The convolutions of RN50, as products: 1 x 1 directly, 3 x 3 of patches that are written out."""
    stages = (3, 64, 56), (4, 128, 28), (6, 256, 14), (3, 512, 7)
    products, inputs = [], 64
    for stage, (blocks, width, size) in enumerate(stages, start=1):
        m = size * size * images
        products += [
            Product(f"layer{stage}: conv1, first", m * (1 if stage == 1 else 4), width, inputs, 1, "relu"),
            Product(f"layer{stage}: conv1", m, width, 4 * width, blocks - 1, "relu"),
            Product(f"layer{stage}: conv2, 3 x 3", m, width, 9 * width, blocks, "relu"),
            Product(f"layer{stage}: conv3", m, 4 * width, width, blocks, "relu"),
            Product(f"layer{stage}: downsample", m, 4 * width, inputs, 1),
        ]
        inputs = 4 * width
    return products


def build_peak(folder):
    """The function `run` of PEAK_SOURCE."""
    source, library = Path(folder) / "peak.c", Path(folder) / "peak.so"
    source.write_text(PEAK_SOURCE)
    compiler = os.environ.get("CC", "cc")
    flags = ["-O3", "-march=native", "-ffp-contract=fast", "-shared", "-fPIC"]
    subprocess.run([compiler, *flags, str(source), "-o", str(library)], check=True)
    run = ctypes.CDLL(str(library)).run
    run.restype, run.argtypes = ctypes.c_double, [ctypes.c_long, ctypes.POINTER(ctypes.c_float)]
    return run


def measure_peak(run, n_threads):
    """FLOP/s of so many threads together."""
    start_together, results = threading.Barrier(n_threads), []

    def work():
        sink = ctypes.c_float()
        start_together.wait()
        start = time.perf_counter()
        flops = run(PEAK_ROUNDS, ctypes.byref(sink))
        results.append((flops, start, time.perf_counter()))

    threads = [threading.Thread(target=work) for _ in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed = max(end for _, _, end in results) - min(start for _, start, _ in results)
    return sum(flops for flops, _, _ in results) / elapsed


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="ViT-B/32", choices=[*TRANSFORMERS, "RN50"])
    parser.add_argument("images", nargs="*", type=int, default=[1])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    set_num_threads(arguments.threads)
    build = _core.build_info()
    print(f"{build['isa']}; by weights: {build['gemm_kernels']}; {arguments.threads} threads; "
          f"load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as folder:
        run = build_peak(folder)
        for images in arguments.images:
            report(arguments.model, images, arguments.rounds, run, arguments.threads)


def report(model, images, rounds, run, n_threads):
    """Measure and print one model with so many images."""
    products = products_of_rn50(images) if model == "RN50" else products_of_transformer(model, images)
    peak = 0.0
    for _ in range(rounds):
        for product in products:
            peak = max(peak, measure_peak(run, n_threads))
            product.measure()
    print(f"\n{model}, {images} image{'s' if images > 1 else ''}; peak {peak / 1e9:.1f} GFLOP/s\n")
    print("| product | M | N | K | times | ms | GFLOP/s | of the peak |\n|---|---|---|---|---|---|---|---|")
    for p in products:
        rate = p.flops / p.best
        print(f"| {p.name} | {p.m} | {p.n} | {p.k} | {p.count} | {1e3 * p.best:.3f} | {rate / 1e9:.1f} "
              f"| {rate / peak:.0%} |")
    seconds = sum(p.count * p.best for p in products)
    rate = sum(p.count * p.flops for p in products) / seconds
    print(f"| all | | | | | {1e3 * seconds:.2f} | {rate / 1e9:.1f} | **{rate / peak:.0%}** |")


if __name__ == "__main__":
    main()
