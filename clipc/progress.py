"""The progress bar of long work."""

from __future__ import annotations

import contextlib


class _NoBar:
    def update(self, n):
        pass


@contextlib.contextmanager
def progress_bar(total, unit, wanted, **options):
    """A bar on standard error, or in the notebook, whose ``update(n)`` counts `n` more of `total`.

    Parameters
    ----------
    total : int or None
    unit : str
        What is counted, such as "image".
    wanted : bool
        Without it nothing is shown, and tqdm is not imported.
    **options
        More arguments of `tqdm.tqdm`.
    """
    if not wanted:
        yield _NoBar()
        return
    from tqdm.auto import tqdm

    with tqdm(total=total, unit=unit, dynamic_ncols=True, **options) as bar:
        yield bar
