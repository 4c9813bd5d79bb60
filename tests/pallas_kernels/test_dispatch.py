import pytest

from pallas_kernels import _dispatch


def refuse(x):
    raise NotImplementedError("needs another machine")


def double(x):
    return 2 * x


def broken(x):
    raise ZeroDivisionError


TABLE = {"refuse": refuse, "double": double, "broken": broken}


def test_default_order_takes_the_first_that_accepts():
    assert _dispatch.call("op", TABLE, None, 3, default=("refuse", "double", "broken")) == 6


def test_a_name_never_falls_back():
    assert _dispatch.call("op", TABLE, "double", 3, default=("refuse",)) == 6
    with pytest.raises(NotImplementedError, match="another machine"):
        _dispatch.call("op", TABLE, "refuse", 3, default=("double",))


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"'tpu' is not an implementation of op; .*refuse, double"):
        _dispatch.call("op", TABLE, "tpu", 3, default=("double",))


def test_all_refusals_are_reported_together():
    with pytest.raises(ExceptionGroup, match="no implementation of op") as caught:
        _dispatch.call("op", TABLE, None, 3, default=("refuse", "refuse"))
    assert len(caught.value.exceptions) == 2


def test_other_errors_are_not_swallowed():
    with pytest.raises(ZeroDivisionError):
        _dispatch.call("op", TABLE, None, 3, default=("broken", "double"))
