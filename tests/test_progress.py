"""Progress bars stay out of logs and out of the red of a notebook's error stream."""

import io
import sys

from claw import progress


def test_nothing_is_shown_in_a_log(capsys):
    assert list(progress.tqdm(range(3))) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


def test_a_kernel_shows_it_as_output(monkeypatch):
    class Stream(io.StringIO):
        pub_thread = None

        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stdout", Stream())
    list(progress.tqdm(range(3), desc="going"))
    assert "going" in sys.stdout.getvalue()


def test_transformers_gets_its_own_bars_back():
    from transformers.utils import logging

    with progress.of_transformers():
        bar = logging.tqdm([1, 2], desc="Loading weights")
        assert isinstance(bar, progress.tqdm) and list(bar) == [1, 2]
    assert not isinstance(logging.tqdm([1], disable=True), progress.tqdm)


def test_who_does_not_ask_for_silence_is_not_shown_in_a_log_either(capsys):
    """tqdm takes disable=False for: always."""
    assert list(progress.tqdm(range(3), disable=False)) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")
