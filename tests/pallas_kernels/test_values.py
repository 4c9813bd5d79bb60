import math

import numpy as np
import pytest

from pallas_kernels._values import flag, share, whole, wholes


@pytest.mark.parametrize("value", [3, np.int8(3), np.int64(3), np.uint32(3)])
def test_whole_numbers_become_python_s(value):
    assert type(whole("n", value)) is int
    assert whole("n", value) == 3


@pytest.mark.parametrize("value", [True, np.True_, 3.0, np.float32(3), "3", None, math.nan, -1])
def test_what_is_no_whole_number_is_refused(value):
    with pytest.raises(ValueError, match=r"n=.* must be a whole number of at least 0; count"):
        whole("n", value, remedy="count from 0")


def test_several_whole_numbers_become_a_tuple():
    assert wholes("w", np.array([1, 2]), count=2) == (1, 2)
    assert {type(n) for n in wholes("w", [np.int32(1), 2])} == {int}


@pytest.mark.parametrize("values", [(1, 2), (1, 2, 0), (1, 2, 3.0), (True, 1, 1), "123", 3, None])
def test_what_is_not_as_many_whole_numbers_is_refused(values):
    with pytest.raises(ValueError, match=r"w=.* must be 3 whole numbers of at least 1; in tiles"):
        wholes("w", values, 1, count=3, remedy="in tiles")


@pytest.mark.parametrize("value", [1, 0.25, np.float32(0.25), np.float64(1), np.int64(1)])
def test_shares_become_python_s(value):
    assert type(share("density", value)) is float
    assert share("density", value) == value


@pytest.mark.parametrize(
    "value", [True, 0, 0.0, -0.1, 1.01, 2, math.nan, math.inf, np.float32("nan"), "0.5", None]
)
def test_what_is_no_share_is_refused(value):
    with pytest.raises(ValueError, match=r"density=.* must lie in \(0, 1\]$"):
        share("density", value)


def test_zero_is_a_share_where_it_is_said():
    assert share("threshold", 0, zero=True) == 0.0
    with pytest.raises(ValueError, match=r"threshold=nan must lie in \[0, 1\]; lower it"):
        share("threshold", math.nan, zero=True, remedy="lower it")


def test_flags_are_true_or_false():
    assert flag("on", np.True_) is True
    for value in (1, 0, "true", None):
        with pytest.raises(ValueError, match=r"on=.* must be True or False"):
            flag("on", value)
