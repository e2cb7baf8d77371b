"""Progress bars: on the terminal's error stream; in a notebook among its output, because there errors have a red ground."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm as _tqdm


class tqdm(_tqdm):
    """tqdm that shows itself where somebody looks: in a terminal or a notebook, not in a log."""

    def __init__(self, *values, file=None, disable: bool | None = None, **options):
        if file is None and hasattr(sys.stdout, "pub_thread"):  # the output of a Jupyter kernel
            file = sys.stdout
        super().__init__(*values, file=file, disable=disable, **options)


@contextmanager
def of_transformers() -> Iterator[None]:
    """transformers' bars as ours, and only those that last longer than two seconds."""
    from transformers.utils import logging

    before = logging.set_tqdm_hook(lambda _, values, options: tqdm(*values, **{"leave": False, "delay": 2} | options))
    try:
        yield
    finally:
        logging.set_tqdm_hook(before)
