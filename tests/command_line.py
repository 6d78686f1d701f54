"""Calling the command line in tests, and pictures to call it with."""

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios

import numpy as np
from click.testing import CliRunner
from PIL import Image

from clipc import cli


def picture(seed, size=(96, 72)):
    """Smooth random colours, so that no two pictures give the same features."""
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    return Image.fromarray(pixels).resize(size, Image.BICUBIC)


def run(*arguments, code=0, **options):
    """Call the command line in this process; checks the exit code and that no traceback is printed.

    ``code=None`` allows any code but 0.
    """
    try:
        runner = CliRunner(mix_stderr=False)
    except TypeError:  # click 8.2 and newer keep the streams apart anyway
        runner = CliRunner()
    result = runner.invoke(cli.main, [str(argument) for argument in arguments], **options)
    expected = result.exit_code == code if code is not None else result.exit_code > 0
    assert expected, (result.exit_code, result.stdout, result.stderr, result.exception)
    if code != 0:
        assert "Traceback" not in result.stderr
        assert result.stderr.splitlines()[-1].startswith("clipc: ")
    return result


def run_process(*arguments, code=0, env=None, **options):
    """Call the command line as a process of its own."""
    options.setdefault("stdin", subprocess.DEVNULL if "input" not in options else None)
    if "input" in options:
        del options["stdin"]
    result = subprocess.run(
        [sys.executable, "-m", "clipc", *map(str, arguments)],
        capture_output=True,
        env={**os.environ, **(env or {})},
        timeout=60,
        **options,
    )
    assert result.returncode == code, (result.returncode, result.stdout, result.stderr)
    return result


def files_in(folder):
    return sorted(path.name for path in folder.iterdir())


@contextlib.contextmanager
def terminal():
    """Both ends of a terminal of 80 columns: the one to read from, and the one for a process to write to."""
    ours, its_end = pty.openpty()
    fcntl.ioctl(its_end, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))  # a new one has no columns
    try:
        yield ours, its_end
    finally:
        os.close(ours)
        with contextlib.suppress(OSError):
            os.close(its_end)


def read_terminal(terminal):
    """What has been printed; empty when the other end is closed. Fails rather than wait for ever."""
    assert select.select([terminal], [], [], 30)[0], "nothing printed for 30 seconds"
    try:
        return os.read(terminal, 4096)
    except OSError:  # how Linux tells it
        return b""


def interrupt(*arguments, when):
    """Press Ctrl-C when a pattern shows on the terminal; returns all that was shown, as bytes.

    Checks that the exit code is 130, and that nothing came to standard output.
    """
    with terminal() as (ours, its_end):
        process = subprocess.Popen(
            [sys.executable, "-m", "clipc", *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=its_end,
        )
        os.close(its_end)
        shown = b""
        try:
            while not re.search(when, shown):
                shown += (more := read_terminal(ours))
                assert more, shown
            process.send_signal(signal.SIGINT)
            while more := read_terminal(ours):
                shown += more
            assert process.wait(30) == 130
            assert process.stdout.read() == b""
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
    return shown
