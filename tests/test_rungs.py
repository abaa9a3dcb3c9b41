"""Rungs: each is reached once, in order, as soon as so much of the work is done, and none once all of it is."""

import math

from hypothesis import given
from hypothesis import strategies as st

from masksearch.rungs import RUNGS, WHOLE, reached, stops


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30))
def test_rungs_are_passed_in_order_whatever_the_pieces(pieces):
    whole, done, passed = sum(pieces), 0, []
    for piece in pieces:
        rung = reached(done, done + piece, whole)
        done += piece
        if rung is not None:
            assert rung * whole <= done * WHOLE
            assert done < whole
            passed.append(rung)
        due = [r for r in RUNGS if r * whole <= done * WHOLE]
        assert done == whole or (passed[-1:] or [None]) == (due[-1:] or [None])
    assert passed == sorted(set(passed))


def test_eighths_are_reached_where_they_lie():
    assert [reached(done, done + 1, 100) for done in (11, 12, 24, 49, 99)] == [None, 1, 2, 4, None]


def test_only_finite_scores_are_judged_and_only_at_rungs():
    asked = []

    def judge(rung, score):
        asked.append((rung, score))
        return True

    assert stops(judge, 2, lambda: 0.5)
    assert not stops(judge, None, lambda: 1 / 0)
    assert not stops(None, 2, lambda: 1 / 0)
    assert not any(stops(judge, 4, lambda value=value: value) for value in (math.nan, -math.inf))
    assert asked == [(2, 0.5)]
