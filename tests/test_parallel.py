"""Tasks in several threads: the outcome is that of doing them one after the other."""

import contextvars
import threading
import time

import pytest
from threads_left import threads_of_clipc

from clipc import parallel


@pytest.fixture(params=[1, 2, 8])
def n_threads(request, use_threads):
    use_threads(request.param)
    return request.param


def all_at_once(n):
    """A task that is over when n threads are in it."""
    barrier = threading.Barrier(n)
    return lambda index: barrier.wait(timeout=60)


def get(outcomes):
    return [outcome.get() for outcome in outcomes]


def test_values_in_order(n_threads):
    assert get(parallel.run(lambda n: n * n, 100)) == [n * n for n in range(100)]
    assert parallel.run(None, 0) == []
    assert threads_of_clipc() == []


def test_as_many_threads_as_set(use_threads):
    use_threads(3)
    seen = set()
    wait = all_at_once(3)

    def task(n):
        wait(n)
        seen.add(threading.current_thread())

    get(parallel.run(task, 3))
    assert len(seen) == 3 and threading.main_thread() in seen


@pytest.mark.parametrize("threads, tasks", [(1, 20), (8, 1)])
def test_no_threads_for_one(use_threads, monkeypatch, threads, tasks):
    use_threads(threads)
    monkeypatch.setattr(threading, "Thread", None)
    assert get(parallel.run(lambda n: n, tasks)) == list(range(tasks))


def test_threads_that_cannot_be_had(use_threads, monkeypatch):
    def start(self):
        raise RuntimeError("can't start new thread")

    use_threads(8)
    monkeypatch.setattr(threading.Thread, "start", start)
    assert get(parallel.run(lambda n: n, 20)) == list(range(20))


def test_errors_are_outcomes(n_threads):
    def task(n):
        if n % 10 == 3:
            raise ValueError(n)
        return n

    outcomes = parallel.run(task, 50)
    assert len(outcomes) == 50
    for n, outcome in enumerate(outcomes):
        if n % 10 == 3:
            with pytest.raises(ValueError, match=f"^{n}$"):
                outcome.get()
        else:
            assert outcome.get() == n


@pytest.mark.parametrize("earliest", [2, 3])
def test_until_the_first_error(use_threads, earliest):
    """Whether task 2 fails before task 3 or after it, and no task begins that would not have its turn."""
    use_threads(4)
    begun, failed = [], threading.Event()
    both = all_at_once(2)

    def task(n):
        begun.append(n)
        if n < 2:
            return n
        if n in (2, 3):
            both(n)
        if n == earliest:
            failed.set()
        else:
            failed.wait(60)
            time.sleep(0.05)
        raise ValueError(n)

    outcomes = parallel.run(task, 1000, until_error=True)
    assert len(outcomes) == 3 and get(outcomes[:2]) == [0, 1]
    with pytest.raises(ValueError, match="^2$"):
        outcomes[2].get()
    assert len(begun) < 10
    assert threads_of_clipc() == []


def test_what_is_put_off_happens_in_order_and_in_the_callers_thread(n_threads):
    said = []

    def task(n):
        parallel.in_order(lambda: said.append((n, threading.current_thread())))
        if n == 30:
            raise ValueError

    outcomes = parallel.run(task, 40)
    assert said == []
    for n, outcome in enumerate(outcomes):
        if n == 30:
            with pytest.raises(ValueError):
                outcome.get()
        else:
            outcome.get()
        assert said[-1] == (n, threading.main_thread())
    assert len(said) == 40
    parallel.in_order(said.append, "at once")
    assert said[-1] == "at once"


def test_within_a_task(n_threads):
    """Another run uses no threads of its own; what its outcomes put off again, as warnings do, waits."""
    said = []

    def inner(n):
        parallel.in_order(parallel.in_order, said.append, n)
        return threading.current_thread()

    def task(n):
        own = threading.current_thread()
        assert get(parallel.run(inner, 5)) == [own] * 5
        return own

    outcomes = parallel.run(task, 10)
    assert said == []
    get(outcomes)
    assert said == list(range(5)) * 10


def test_interrupt_of_the_caller(use_threads):
    """Ctrl-C reaches the caller, whose helpers have ended by then; nothing further has begun."""
    use_threads(2)
    begun = []
    wait = all_at_once(2)

    def task(n):
        begun.append(n)
        if n < 2:
            wait(n)
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        parallel.run(task, 100_000)
    assert threads_of_clipc() == []
    assert len(begun) < 100_000
    parallel.in_order(begun.append, "at once")  # the thread is in no task any more
    assert begun[-1] == "at once"


def test_exit_in_a_helper_is_not_lost(use_threads):
    use_threads(2)
    wait = all_at_once(2)

    def task(n):
        wait(n)
        if threading.current_thread() is not threading.main_thread():
            raise SystemExit(3)

    with pytest.raises(SystemExit):
        get(parallel.run(task, 2))


def test_context_variables_of_the_caller(n_threads):
    variable = contextvars.ContextVar("variable", default=0)
    variable.set(5)
    assert get(parallel.run(lambda n: variable.get(), 20)) == [5] * 20
