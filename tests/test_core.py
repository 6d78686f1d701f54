"""The base of the core: instruction sets, threads, fork, the arena, memory that runs out."""

import multiprocessing
import os
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from core_process import LEVELS, environment, supported_levels
from hypothesis import given, settings
from hypothesis import strategies as st

from clipc import _core

SANITIZED = any(name in os.environ.get("LD_PRELOAD", "") for name in ("asan", "tsan"))
PATIENCE = 60  # seconds after which something hangs


def floats(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def run_python(code, **variables):
    command = [sys.executable, "-c", textwrap.dedent(code)]
    env = environment(**variables)
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE)


@pytest.fixture(autouse=True)
def same_threads_afterwards():
    n = _core.get_num_threads()
    yield
    _core.set_num_threads(n)


def attention_pool_tensors(c, hw):
    tensors = {"positional_embedding": floats(0, 1 + hw, c)}
    for i, name in enumerate("qkvc"):
        tensors[f"{name}_proj.weight"] = floats(i, c, c) / np.float32(c**0.5)
        tensors[f"{name}_proj.bias"] = floats(i, c)
    return tensors


X, W, BIAS = floats(0, 300, 96), floats(1, 130, 96), floats(2, 130)
IMAGES, KERNEL = floats(3, 3, 21, 19, 16), floats(4, 24, 3, 3, 16)
QKV, LENGTHS = floats(5, 200, 3 * 48), np.array([1, 77, 64, 8, 50])
TOKENS, POOL = floats(6, 5, 49, 48), attention_pool_tensors(48, 49)

# Each is large enough to be split between threads.
LAYERS = {
    "linear": lambda: _core.op_linear(X, W, BIAS, activation="gelu"),
    "linear by columns": lambda: _core.op_linear(X[:40], floats(7, 900, 96), activation="quick_gelu"),
    "conv2d": lambda: _core.op_conv2d(IMAGES, KERNEL, padding=1, activation="relu"),
    "avg_pool2d": lambda: _core.op_avg_pool2d(IMAGES, 2),
    "attention": lambda: _core.op_attention(QKV, LENGTHS, 3),
    "causal attention": lambda: _core.op_attention(QKV, LENGTHS, 3, True),
    "attention_pool": lambda: _core.op_attention_pool(TOKENS, POOL, 3, 48),
    "layernorm": lambda: np.concatenate([a.ravel() for a in _core.op_layernorm(X, X[0], X[1])]),
}


# ---- instruction sets ----------------------------------------------------------------------------------


@pytest.mark.parametrize("isa", supported_levels())
def test_a_supported_level_is_used(isa):
    run = run_python("from clipc import _core; print(_core.build_info()['isa'])", CLIPC_ISA=isa)
    assert (run.returncode, run.stdout) == (0, isa + "\n")


def test_no_cap_is_the_best_level():
    run = run_python("from clipc import _core; print(_core.build_info()['isa'])", CLIPC_ISA="")
    assert run.stdout == supported_levels()[-1] + "\n"


def test_an_unknown_level_is_an_error():
    run = run_python("import clipc", CLIPC_ISA="nonsense")
    levels = "generic, avx2, avx512, avx512vnni or avx512bf16"
    assert run.returncode == 1
    assert run.stderr.endswith(f"ValueError: CLIPC_ISA: expected {levels}, got nonsense\n")


def test_an_unsupported_level_is_an_error():
    best = supported_levels()[-1]
    if best == LEVELS[-1]:
        pytest.skip("this processor supports every level")
    run = run_python("import clipc", CLIPC_ISA=LEVELS[-1])
    assert run.returncode == 1
    expected = f"ValueError: CLIPC_ISA={LEVELS[-1]}: this processor supports at most {best}\n"
    assert run.stderr.endswith(expected)


# ---- threads -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", LAYERS)
def test_any_number_of_threads_gives_the_same(layer):
    _core.set_num_threads(1)
    expected = LAYERS[layer]()
    for n in (2, 3, 7, 16):
        _core.set_num_threads(n)
        found = LAYERS[layer]()
        # A split moves the edges of OpenBLAS's register tiles, where it adds up a sum of products in another
        # order: a few units in the last place of the largest results. Exact where there is no product, or
        # one by weights with a kernel of our own, which adds up in one order whatever the tile.
        exact = ["avg_pool2d", "layernorm"]
        if _core.build_info()["gemm_kernels"] != "OpenBLAS":
            exact += ["linear", "linear by columns", "conv2d"]
        tolerance = 0 if layer in exact else 2e-6 * np.abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)
        np.testing.assert_array_equal(LAYERS[layer](), found)  # the same split, the same bits


@pytest.mark.parametrize("n_threads", [1, 2, 3, 7])
@pytest.mark.parametrize(
    ("n_tasks", "n_nested"), [(0, 3), (1, 1), (1, 50), (2, 1), (7, 5), (1000, 1), (33, 0)]
)
def test_each_task_runs_once(n_threads, n_tasks, n_nested):
    _core.set_num_threads(n_threads)
    rounds = 50
    counts = _core.op_parallel_for(n_tasks, n_nested, rounds)
    np.testing.assert_array_equal(counts, np.full((n_tasks, n_nested), rounds))


def test_many_short_loops():
    # Workers spin, sleep and are woken between loops: a lost wake-up would hang, a stale one run a task
    # twice.
    for n in (2, 5):
        _core.set_num_threads(n)
        assert (_core.op_parallel_for(9, 1, 20000) == 20000).all()
        for pause in (0, 1e-5, 1e-4, 1e-3) * 20:
            time.sleep(pause)
            assert (_core.op_parallel_for(9, 1, 3) == 3).all()


@pytest.mark.parametrize("n", [0, -1, 1025, 2**31, 2**70, -(2**70)])
def test_a_number_of_threads_out_of_range_is_refused(n):
    before = _core.get_num_threads()
    with pytest.raises(ValueError, match="number of threads: expected 1 to 1024"):
        _core.set_num_threads(n)
    assert _core.get_num_threads() == before


def test_callers_at_the_same_time():
    """Several Python threads compute, and one changes the number of threads meanwhile."""
    _core.set_num_threads(2)
    expected = {name: layer() for name, layer in LAYERS.items()}
    end = time.monotonic() + 1.5

    def compute(shift):
        names = list(LAYERS)[shift:] + list(LAYERS)[:shift]
        rounds = 0
        while time.monotonic() < end:
            for name in names:
                largest = np.abs(expected[name]).max()
                np.testing.assert_allclose(LAYERS[name](), expected[name], rtol=0, atol=2e-6 * largest)
            assert (_core.op_parallel_for(20, 3, 10) == 10).all()
            rounds += 1
        return rounds

    def change():
        n = 0
        while time.monotonic() < end:
            n = n % 7 + 1
            _core.set_num_threads(n)
        return 1

    with ThreadPoolExecutor(6) as executor:
        futures = [executor.submit(compute, i) for i in range(5)] + [executor.submit(change)]
        assert all(future.result(timeout=PATIENCE) > 0 for future in futures)


def becomes(count, expected):
    """Whether `count` gives what is expected, soon: the system lists a joined thread for another moment."""
    end = time.monotonic() + 10
    while count() != expected and time.monotonic() < end:
        time.sleep(0.01)
    return count() == expected


def test_threads_are_released_by_setting_fewer():
    if not os.path.isdir("/proc/self/task"):
        pytest.skip("needs /proc")

    def count():
        return len(os.listdir("/proc/self/task"))

    _core.set_num_threads(1)
    time.sleep(0.1)
    before = count()
    _core.set_num_threads(9)
    _core.op_parallel_for(50, 1, 3)
    assert becomes(count, before + 8)
    _core.set_num_threads(1)
    assert becomes(count, before)


# ---- fork ----------------------------------------------------------------------------------------------


def check_layers(expected):
    """What a child does: compute with the pool, change it, compute again."""
    for n in (None, 3, 1):
        if n is not None:
            _core.set_num_threads(n)
        assert (_core.op_parallel_for(30, 2, 20) == 20).all()
        for name, values in expected.items():
            np.testing.assert_allclose(LAYERS[name](), values, rtol=0, atol=2e-6 * np.abs(values).max())


def run_forked(target, *args):
    """Run in a forked child, which must end in good time and without an error."""
    child = multiprocessing.get_context("fork").Process(target=target, args=args)
    child.start()
    child.join(PATIENCE)
    hung = child.is_alive()
    if hung:
        child.kill()
        child.join()
    assert not hung, "the child hangs"
    assert child.exitcode == 0


needs_fork = pytest.mark.skipif(
    not hasattr(os, "fork") or "tsan" in os.environ.get("LD_PRELOAD", ""),
    reason="needs fork; ThreadSanitizer allows no new threads in a forked child",
)
# Python warns of what this package promises to survive.
ignore_fork_warning = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


@needs_fork
@ignore_fork_warning
def test_fork_after_use():
    _core.set_num_threads(4)
    expected = {name: layer() for name, layer in LAYERS.items()}

    def child():
        check_layers(expected)
        _core.set_num_threads(2)
        run_forked(check_layers, expected)  # a grandchild

    for _ in range(3):
        run_forked(child)
    check_layers(expected)


@needs_fork
@ignore_fork_warning
@pytest.mark.parametrize("n_threads", [1, 3])
def test_fork_while_others_compute(n_threads):
    """Whatever locks the other threads hold at that moment, the child must not wait for them."""
    _core.set_num_threads(n_threads)
    names = ("linear", "conv2d", "attention")
    expected = {name: LAYERS[name]() for name in names}
    stop = threading.Event()

    def compute(name):
        while not stop.is_set():
            LAYERS[name]()
            _core.op_parallel_for(20, 3, 50)  # loops in loops, in the pool or alone
        return True

    def change():
        while not stop.is_set():
            _core.set_num_threads(n_threads + 1)
            _core.set_num_threads(n_threads)
        return True

    with ThreadPoolExecutor(4) as executor:
        futures = [executor.submit(compute, name) for name in names] + [executor.submit(change)]
        try:
            for _ in range(20):
                run_forked(check_layers, expected)
        finally:
            stop.set()
        assert all(future.result(timeout=PATIENCE) for future in futures)


# ---- memory --------------------------------------------------------------------------------------------

# Around 262,144 floats, the 1 MiB that the arena takes at once.
BLOCKS = st.integers(0, 70) | st.sampled_from([1000, 200_000, 262_144, 262_145, 700_000])
STEPS = st.lists(st.just(-1) | st.just(-2) | BLOCKS, max_size=40)


@given(STEPS)
@settings(deadline=None, max_examples=200, derandomize=True)
def test_arena_blocks_are_aligned_and_apart(steps):
    valid, marks, depth = [], [], 0
    for step in steps:  # no release without a mark, and no more marks than the function keeps
        depth += {-1: 1, -2: -1}.get(step, 0)
        if depth < 0 or depth > 32:
            break
        valid.append(step)
    addresses = iter(_core.op_arena(valid))
    live = []
    for step in valid:
        if step == -1:
            marks.append(len(live))
        elif step == -2:
            del live[marks.pop() :]
        else:
            begin = next(addresses)
            end = begin + max(4 * step, 1)
            assert begin % 64 == 0
            assert all(end <= b or e <= begin for b, e in live)
            live.append((begin, end))


def test_arena_reuses_what_was_released():
    first, second = _core.op_arena([-1, 300_000, -2, 300_000])
    assert first == second


@pytest.mark.parametrize("count", [2**40, 2**61, 2**62, 2**63 - 1])
def test_impossible_blocks_are_refused(count):
    if SANITIZED and count < 2**61:
        pytest.skip("a sanitizer reports the attempt")
    expected = f"out of memory: {min(4 * count, 2**64 - 1)} bytes could not be allocated"
    with pytest.raises(MemoryError, match=expected):
        _core.op_arena([count])


@pytest.mark.skipif(SANITIZED, reason="sanitizers need more memory than the limit leaves")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs RLIMIT_AS and /proc")
def test_memory_that_runs_out_is_an_error():
    run = run_python("""
        import resource
        import numpy as np
        from clipc import _core

        def ones(*shape):
            return np.ones(shape, np.float32)

        _core.set_num_threads(1)
        _core.op_gemm("abt", ones(300, 300), ones(300, 300))  # OpenBLAS takes its buffer
        c, hw = 64, 100_000
        pool = {"positional_embedding": ones(1 + hw, c)}
        for name in "qkvc":
            pool |= {f"{name}_proj.weight": ones(c, c), f"{name}_proj.bias": ones(c)}
        x, weight = ones(1, hw, c), ones(3000, 3000)
        image, kernel = ones(1, 3, 3, 200_000), ones(1, 3, 3, 200_000)
        calls = {
            "pack": lambda: _core.op_linear(weight[:1], weight),
            "pool": lambda: _core.op_attention_pool(x, pool, 4, c),
            "patches": lambda: _core.op_conv2d(image, kernel, padding=2, stride=3),
            "output": lambda: _core.op_softmax(weight),
            "tensor": lambda: _core.op_convert(weight),
        }
        limits = resource.getrlimit(resource.RLIMIT_AS)
        for name, call in calls.items():
            with open("/proc/self/statm") as file:
                used = int(file.read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + (3 << 20), limits[1]))
            try:
                call()
            except MemoryError as error:
                print(name, "MemoryError")
            finally:
                resource.setrlimit(resource.RLIMIT_AS, limits)
            call()
    """)
    assert (run.returncode, run.stderr) == (0, "")
    names = ("pack", "pool", "patches", "output", "tensor")
    assert run.stdout.splitlines() == [f"{name} MemoryError" for name in names]
