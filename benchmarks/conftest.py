"""Options, fixtures and the table at the end of a run of the benchmarks."""

import os

import pytest
from measure import Goal, machine

import clipc

GOALS = pytest.StashKey()
LOAD = pytest.StashKey()


def pytest_addoption(parser):
    group = parser.getgroup("clipc")
    group.addoption("--rounds", type=int, default=9, help="turns of each contender, 7 or more (default 9)")
    group.addoption("--threads", type=int, default=2, help="threads of clipc and of PyTorch (default 2)")


def pytest_configure(config):
    config.stash[GOALS] = []
    # At the end it would count the benchmarks themselves.
    config.stash[LOAD] = os.getloadavg()[0]


def pytest_sessionstart(session):
    clipc.set_num_threads(session.config.getoption("--threads"))


@pytest.fixture(scope="session")
def rounds(request):
    """How often each contender has its turn."""
    return request.config.getoption("--rounds")


@pytest.fixture(scope="session")
def record(request):
    """A function that puts a `Goal` into the table at the end."""

    def add(what, figure, at_most=None, unit="", detail=""):
        goal = Goal(what, float(figure), at_most, unit, detail)
        request.config.stash[GOALS].append(goal)
        print(format_goal(goal))

    return add


def format_goal(goal):
    figure = f"{goal.figure:.3g}{goal.unit}"
    wanted = f"at most {goal.at_most:g}{goal.unit}" if goal.at_most is not None else "no goal"
    return f"{goal.what:<70} {figure:>9}  {wanted:<15} {goal.verdict:<7} {goal.detail}".rstrip()


def pytest_terminal_summary(terminalreporter, config):
    goals = config.stash[GOALS]
    if not goals:
        return
    terminalreporter.section("clipc: figures and goals")
    for line in machine(config.stash[LOAD]):
        terminalreporter.write_line(line)
    terminalreporter.write_line("ratios: best of each contender, which took turns in the same process")
    terminalreporter.write_line("")
    for goal in goals:
        terminalreporter.write_line(format_goal(goal), red=goal.verdict == "MISSED")
