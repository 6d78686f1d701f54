"""The extension under another instruction set than this process uses.

The kernels are chosen once, when ``clipc._core`` is imported, and nothing in the extension changes the choice
afterwards. So a test that wants another level asks a second process, which was started with ``CLIPC_ISA``.
"""

import functools
import io
import os
import pickle
import subprocess
import sys

import numpy as np

LEVELS = ("generic", "avx2", "avx512", "avx512vnni", "avx512bf16")


def supported_levels():
    """The levels that this processor has, the lowest first."""
    from clipc import _core

    return LEVELS[: LEVELS.index(_core.build_info()["isa_detected"]) + 1]


def columns_of(wide, n):
    return wide[:, :n]


class _Pickler(pickle.Pickler):
    """Keeps views such as ``wide[:, :n]`` views: pickling would make their rows contiguous."""

    def reducer_override(self, obj):
        if isinstance(obj, np.ndarray) and obj.base is not None and not obj.flags.c_contiguous:
            return columns_of, (obj.base, obj.shape[1])
        return NotImplemented


def _send(stream, message):
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=5).dump(message)
    stream.write(buffer.getbuffer())
    stream.flush()


def environment(**variables):
    """The environment for a child that imports this module."""
    # conftest.py has put the clipc under test into PYTHONPATH.
    path = [os.path.dirname(os.path.abspath(__file__)), os.environ["PYTHONPATH"]]
    return os.environ | {"PYTHONPATH": os.pathsep.join(path)} | variables


class CoreProcess:
    """Stands for ``clipc._core`` at the level `isa`: its functions, called in a process of their own."""

    def __init__(self, isa):
        command = [sys.executable, "-c", "import core_process; core_process.serve()"]
        self._process = subprocess.Popen(
            command, env=environment(CLIPC_ISA=isa), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def __getattr__(self, name):
        if name.startswith("_"):  # such as what Hypothesis looks for when it prints arguments
            raise AttributeError(name)
        return functools.partial(self._call, name)

    def _call(self, name, *args, **kwargs):
        _send(self._process.stdin, (name, args, kwargs))
        succeeded, result = pickle.load(self._process.stdout)
        if not succeeded:
            raise result
        return result

    def close(self):
        self._process.communicate(timeout=30)


def serve():
    """Answer calls from standard input until it ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever else prints must not get between the answers
    from clipc import _core

    while True:
        try:
            name, args, kwargs = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer = True, getattr(_core, name)(*args, **kwargs)
        except Exception as error:
            answer = False, error
        _send(answers, answer)
