"""What clipc costs before and between encodes: importing, loading, memory. Each in processes of its own."""

import statistics
import tempfile
from pathlib import Path

import pytest
from measure import MB, FreshProcess, interleave, vit_b_32_shapes, write_random_weights

IMPORT = """
import time
start = time.perf_counter()
import {module}
print(time.perf_counter() - start)
"""

# Both import the same, so that both work in the same surroundings.
READ = """
import sys, time
import clipc
start = time.perf_counter()
with open(sys.argv[1], "rb") as file:
    data = file.read()
print(time.perf_counter() - start)
"""
LOAD = """
import sys, time
import clipc
start = time.perf_counter()
model = clipc.load(sys.argv[1])
print(time.perf_counter() - start)
"""

# Of this process alone: `ru_maxrss` would not do on Linux, where a child inherits its parent's peak.
MEMORY = """
import json, os, resource, subprocess, sys

def resident_and_peak():
    try:
        with open("/proc/self/status") as file:
            fields = dict(line.split(":", 1) for line in file)
        return [1024 * int(fields[name].split()[0]) for name in ("VmRSS", "VmHWM")]
    except FileNotFoundError:
        rss = subprocess.check_output(["ps", "-o", "rss=", "-p", str(os.getpid())])
        return [1024 * int(rss), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]

import numpy as np
import clipc

clipc.set_num_threads(int(sys.argv[2]))
batch = int(sys.argv[3])
picture = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
model = clipc.load(sys.argv[1])
loaded = resident_and_peak()
for i in range(10):
    model.encode_image(batch * [picture])
    model.encode_text(["a photo of a nurse", "a photo of a doctor"])
print(json.dumps({"loaded": loaded, "encoded": resident_and_peak()}))
"""


@pytest.fixture(scope="module")
def process():
    fresh = FreshProcess()
    yield fresh
    fresh.close()


@pytest.fixture(scope="module")
def weight_file():
    """A float32 file of ViT-B/32's size: (path, bytes). Just written, so it lies in the page cache."""
    with tempfile.TemporaryDirectory(prefix="clipc-benchmark-") as folder:
        path = Path(folder) / "vit-b-32.safetensors"
        write_random_weights(path, vit_b_32_shapes())
        yield path, path.stat().st_size


def test_import(process, record, rounds):
    pieces = {name: IMPORT.format(module=name) for name in ("numpy", "clipc")}
    contenders = {name: lambda code=code: process.run(code) for name, code in pieces.items()}
    times = interleave(contenders, max(rounds, 15))
    times = {name: statistics.median(values) for name, values in times.items()}
    record("import clipc, beyond import numpy", times["clipc"] - times["numpy"], 0.05, " s",
           f"medians {1e3 * times['clipc']:.0f} ms and {1e3 * times['numpy']:.0f} ms, fresh processes")


def test_loading(process, weight_file, record, rounds):
    path, size = weight_file
    contenders = {"load": lambda: process.run(LOAD, path), "read": lambda: process.run(READ, path)}
    best = {name: min(values) for name, values in interleave(contenders, rounds).items()}
    record("loading ViT-B/32 in float32 / reading the file", best["load"] / best["read"], 2,
           detail=f"{1e3 * best['load']:.0f} ms / {1e3 * best['read']:.0f} ms for {size / MB:.0f} MB")


@pytest.mark.parametrize("batch", [1, 32])
def test_memory(batch, process, weight_file, record, request):
    path, size = weight_file
    used = process.run(MEMORY, path, request.config.getoption("--threads"), batch)
    resident, peak = used["encoded"]
    what = f"ten encodes of {batch} picture{'s' if batch > 1 else ''} and two labels"
    detail = f"{{:.0f}} MB with weights of {size / MB:.0f} MB"
    beyond = (resident - size) / MB
    record(f"resident beyond the weights, {what}", beyond, 150, " MB", detail.format(resident / MB))
    record(f"peak beyond the weights, {what}", (peak - size) / MB, 300, " MB", detail.format(peak / MB))
