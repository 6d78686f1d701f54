"""What it costs to load PyTorch's own files instead of safetensors. Each load in a process of its own."""

import math

import pytest
from measure import MB, FreshProcess, interleave, vit_b_32_shapes

# Of this process alone: `ru_maxrss` would not do on Linux, where a child inherits its parent's peak.
LOAD = """
import json, resource, sys, time
import clipc

def peak():
    try:
        with open("/proc/self/status") as file:
            return 1024 * next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
    except FileNotFoundError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

before = peak()
start = time.perf_counter()
model = clipc.load(sys.argv[1])
print(json.dumps([time.perf_counter() - start, peak(), before]))
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The same random tensors of ViT-B/32 in three kinds of files, in the dtypes of OpenAI's archive."""
    torch = pytest.importorskip("torch")
    from oracles import layouts
    from torch_files import save_script

    generator = torch.Generator().manual_seed(0)
    state = {
        name: torch.randn(shape, generator=generator) * math.prod(shape[1:]) ** -0.5
        for name, shape in vit_b_32_shapes().items()
    }
    state["logit_scale"] = torch.tensor(math.log(100))
    state = layouts.cast(state, "openai")
    folder = tmp_path_factory.mktemp("archives")
    layouts.save_openai(state, folder / "vit.safetensors", "openai")
    torch.save(state, folder / "vit.bin")
    save_script(state, folder / "vit.pt")
    found = {
        "safetensors": folder / "vit.safetensors",
        "torch.save": folder / "vit.bin",
        "TorchScript": folder / "vit.pt",
    }
    yield found
    for path in found.values():
        path.unlink()


def test_loading(files, record, rounds):
    process = FreshProcess()
    peaks, bases = {}, {}

    def load(kind):
        seconds, peak, before = process.run(LOAD, files[kind])
        peaks.setdefault(kind, []).append(peak)
        bases.setdefault(kind, []).append(before)
        return seconds

    times = interleave({kind: lambda kind=kind: load(kind) for kind in files}, rounds)
    process.close()
    best = {kind: min(values) for kind, values in times.items()}
    peak = {kind: min(values) for kind, values in peaks.items()}
    grown = {kind: peak[kind] - min(bases[kind]) for kind in files}
    size = files["safetensors"].stat().st_size / MB
    for kind in ("torch.save", "TorchScript"):
        record(
            f"loading ViT-B/32, {kind} / safetensors", best[kind] / best["safetensors"], 1.5,
            detail=f"{1e3 * best[kind]:.0f} ms / {1e3 * best['safetensors']:.0f} ms for {size:.0f} MB",
        )  # fmt: skip
        record(
            f"peak memory of it, {kind} / safetensors", peak[kind] / peak["safetensors"], 1.3,
            detail=f"{peak[kind] / MB:.0f} MB / {peak['safetensors'] / MB:.0f} MB; beyond the import "
                   f"{grown[kind] / MB:.0f} MB / {grown['safetensors'] / MB:.0f} MB",
        )  # fmt: skip
