"""The true law of a length: Bayes and Gittins' index against what can be counted by hand."""

from dataclasses import replace
from statistics import fmean

import numpy
import pytest

from benchmark.simulation import laws, workloads

CHAT = workloads.SHAPES["chat"]


def test_the_prior_is_how_often_the_generator_draws_each_length() -> None:
    drawn = [trace.length for trace in workloads.traces(CHAT, 4000, 7)]
    chances = laws.prior_lengths(CHAT)
    assert chances.sum() == pytest.approx(1)
    assert chances @ numpy.arange(1, CHAT.max_new + 1) == pytest.approx(fmean(drawn), rel=0.05)
    assert chances[-1] == pytest.approx(drawn.count(CHAT.max_new) / 4000, abs=0.01)


def test_shorter_answers_have_a_law_of_their_own() -> None:
    drawn = [trace.length for trace in workloads.traces(CHAT, 4000, 7, shrink=4.0)]
    chances = laws.prior_lengths(CHAT, 4.0)
    assert len(chances) == CHAT.max_new // 4
    assert chances @ numpy.arange(1, len(chances) + 1) == pytest.approx(fmean(drawn), rel=0.05)


def test_a_prediction_is_weighed_by_how_often_such_a_length_gets_it() -> None:
    before = laws.prior_lengths(replace(CHAT, output=(20.0, 0.6), max_new=60))
    drawn = workloads.traces(replace(CHAT, output=(20.0, 0.6), max_new=60), 40_000, 3)
    predicted = workloads.predictions(drawn, 0.8, 3)
    near = [trace.length for trace, x in zip(drawn, predicted, strict=True) if 38 < x < 42]
    after = laws.posterior_lengths(before, 40.0, 0.8)
    assert after @ numpy.arange(1, 61) == pytest.approx(fmean(near), rel=0.05)
    with pytest.raises(ValueError, match="is the length itself"):
        laws.posterior_lengths(before, 40.0, 0.0)


def test_work_stops_at_the_best_moment() -> None:
    """Half of the answers have 2 tokens, half 10: two tokens of work for half an answer first."""
    chances = numpy.zeros(10)
    chances[[1, 9]] = 0.5
    work = laws.GittinsIndex(chances)
    assert work.after(0) == pytest.approx(2 / 0.5)
    assert work.after(1) == pytest.approx(1 / 0.5)
    assert work.after(2) == pytest.approx(8)
    assert work.after(9) == pytest.approx(1)
