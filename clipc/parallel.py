"""Independent tasks in several threads, with the outcome of doing them one after the other.

Threads help with what leaves the interpreter's lock free: the core's functions, reading files, hashing.
They live as long as one call of `run` and no longer, so there is nothing to shut down, and nothing that a
forked child would miss.
"""

from __future__ import annotations

import contextvars
import threading

# `calls` in it: what `in_order` has put off in the task that this thread is doing.
_thread = threading.local()


class Outcome:
    """What became of a task.

    Attributes
    ----------
    value : object
        What it returned; None if it failed.
    error : BaseException or None
        What it raised.
    """

    __slots__ = ("_calls", "error", "value")

    def __init__(self, value, error, calls):
        self.value = value
        self.error = error
        self._calls = calls

    def get(self):
        """Do what the task put off by `in_order`, then give the value or raise the error. Once."""
        calls, self._calls = self._calls, ()
        for function, arguments in calls:
            function(*arguments)
        if self.error is None:
            return self.value
        error, self.error = self.error, None  # it refers to frames that refer to it
        try:
            raise error
        finally:
            del error


def run(task, n, *, until_error=False):
    """Do ``task(0)`` to ``task(n - 1)``, in as many threads as `clipc.get_num_threads` says.

    The calling thread is one of them. Tasks begin in order. Within a task, another `run` does its tasks one
    after the other. Threads see the caller's context variables.

    Parameters
    ----------
    task : callable
    n : int
    until_error : bool
        Begin no further task when one has failed.

    Returns
    -------
    list of Outcome
        Of all tasks, in order; with `until_error` up to the first that failed, and none that follow.

    Raises
    ------
    KeyboardInterrupt
        Ctrl-C; tasks that have begun are waited for.
    """
    from clipc import _core  # not above: it imports clipc.errors, which imports this module

    outcomes = [None] * n
    lock = threading.Lock()
    begun, end = 0, n  # guarded by `lock`

    def work(caught):
        nonlocal begun, end
        while True:
            with lock:
                if begun >= end:
                    return
                index, begun = begun, begun + 1
            outcomes[index] = _attempt(task, index, caught)
            if until_error and outcomes[index].error is not None:
                with lock:
                    end = min(end, index + 1)

    n_threads = 1 if _in_task() else min(_core.get_num_threads(), n)
    helpers = []
    try:
        for _ in range(n_threads - 1):
            # What a task raises must not get lost with the thread, SystemExit included.
            arguments = (work, BaseException)
            # A daemon: where a task waits for ever, for a pipe perhaps, the interpreter can still end.
            helper = threading.Thread(
                target=contextvars.copy_context().run, args=arguments, name="clipc", daemon=True
            )
            helpers.append(helper)
            try:
                helper.start()
            except RuntimeError:  # the system has no more: fewer are slower, not wrong
                break
        work(Exception)
        _join(helpers)
    except BaseException:
        end = 0
        _join(helpers)
        raise
    return outcomes[:end]


def in_order(function, *arguments):
    """Call a function; within a task, put it off until the task's `Outcome.get`.

    For what must be done in the thread that asked for the work and in the order of the tasks, such as giving
    a warning.
    """
    if _in_task():
        _thread.calls.append((function, arguments))
    else:
        function(*arguments)


def _in_task():
    return getattr(_thread, "calls", None) is not None


def _attempt(task, index, caught):
    outer = getattr(_thread, "calls", None)
    _thread.calls = calls = []
    try:
        return Outcome(task(index), None, calls)
    except caught as error:
        return Outcome(None, error, calls)
    finally:
        _thread.calls = outer


def _join(helpers):
    for helper in helpers:
        if helper.ident is not None:  # it has been started
            helper.join()
