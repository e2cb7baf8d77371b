"""Progress bars: on the terminal's error stream; in a notebook among its output, because there errors have a red ground."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

from tqdm import tqdm as _tqdm


class tqdm(_tqdm):
    """tqdm that shows itself where somebody looks: in a terminal or a notebook, not in a log."""

    def __init__(self, *values, file=None, disable: bool | None = None, **options):
        if file is None and hasattr(sys.stdout, "pub_thread"):  # the output of a Jupyter kernel
            file = sys.stdout
        super().__init__(*values, file=file, disable=disable or None, **options)  # tqdm's False shows it in logs too


@contextmanager
def of_transformers() -> Iterator[None]:
    """transformers' bars as ours, and only those that last longer than two seconds."""
    from transformers import modeling_gguf_pytorch_utils as of_gguf  # which has a bar without the hook
    from transformers.utils import logging

    ours = lambda *values, **options: tqdm(*values, **{"leave": False, "delay": 2} | options)
    before = logging.set_tqdm_hook(lambda _, values, options: ours(*values, **options))
    with ExitStack() as stack:
        stack.callback(logging.set_tqdm_hook, before)
        if hasattr(of_gguf, "tqdm"):
            stack.enter_context(mock.patch.object(of_gguf, "tqdm", ours))
        yield
