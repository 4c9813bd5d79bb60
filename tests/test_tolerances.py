"""What tests/tolerances.py lets pass, what it sees, and what tests/margins.py keeps of it."""

import contextlib
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.record import read
from tests import margins, tolerances
from tests.conformance.dense_op_suite import DENSE_CASES

RNG = np.random.default_rng(0)
X = RNG.standard_normal((64, 256)).astype(np.float32)
DEEPEST = 2000  # roundings in a row of the tiny transformers; of their gradients three times, of VAEs four


def share(got, want, roundings):
    """The larger of the two shares of what is allowed."""
    seen = []
    tolerances.observer, before = lambda *given: seen.append(given), tolerances.observer
    try:
        tolerances.assert_rounding_apart(got, want, roundings, "x")
    finally:
        tolerances.observer = before
    return max(error / allowed for error, allowed, _ in seen)


@pytest.mark.parametrize("n", [10, 100, 1000])
def test_roundings_in_a_row_use_a_good_part_of_it_and_less_than_half(n):
    factors = np.exp(RNG.normal(0, 0.05, (n, 1, 256))).astype(np.float32)
    one, another = X.copy(), X.copy()
    for a, b in zip(factors, factors[::-1], strict=True):
        one, another = one * a, another * b
    assert 0.15 < share(one, another, n) < margins.NEAR


@pytest.mark.parametrize("length", [32, 864])
def test_a_sum_of_products_counts_half_its_length(length):
    terms = RNG.standard_normal((length, 4096)).astype(np.float32)
    there = np.add.accumulate(terms, 0)[-1]  # one after the other, as accumulate must
    back = np.add.accumulate(terms[::-1], 0)[-1]
    assert 0.15 < share(there, back, length / 2) < margins.NEAR


def norm(x, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps)


@pytest.mark.parametrize(
    ("mistaken", "seen_up_to"),
    [
        (lambda x: norm(x, 1e-5), DEEPEST),  # shifts by 4.5e-6, 38 eps
        (lambda x: 1.001 * norm(x, 1e-6), 1000 * DEEPEST),
        (lambda x: norm(x.astype(jnp.bfloat16).astype(np.float32), 1e-6), 1000 * DEEPEST),
        (lambda x: np.where(np.arange(256) == 7, 0.99, 1) * norm(x, 1e-6), 10 * DEEPEST),
    ],
    ids=["a norm's epsilon", "a scale", "bfloat16", "one channel"],
)
def test_small_mistakes_are_seen(mistaken, seen_up_to):
    right = norm(X, 1e-6)
    assert share(norm(X[:, ::-1], 1e-6)[:, ::-1], right, 20) < margins.NEAR
    with pytest.raises(AssertionError, match="root mean square: error"):
        tolerances.assert_rounding_apart(mistaken(X), right, seen_up_to, "x")


def test_one_wrong_number_a_wrong_shape_and_nan_are_seen():
    wrong = X.copy()
    wrong[3, 4] += 0.01
    with pytest.raises(AssertionError, match="allowed"):
        tolerances.assert_rounding_apart(wrong, X, DEEPEST, "x")
    with pytest.raises(AssertionError, match=r"x: shape \(1, 256\), expected is \(64, 256\)"):
        tolerances.assert_rounding_apart(X[:1], X, DEEPEST, "x")
    wrong[3, 4] = np.nan
    with pytest.raises(AssertionError, match="error nan"):
        tolerances.assert_rounding_apart(wrong, X, DEEPEST, "x")


class TestLargeLogits:
    """Logits to 1,000, of which a few nearly tie."""

    NAMES = "out", "lse", "dq", "dk", "dv"
    CASE = next(case for case in DENSE_CASES if case.name == "large_logits")

    @pytest.fixture(scope="class")
    @classmethod
    def problem(cls):
        q, k, v, d_out, d_lse = cls.CASE.arrays(jnp.float32)
        arrays = q, k, v, np.ones((1, 1, 1, 1), bool), cls.CASE.head_dim**-0.5, d_out, d_lse
        exact = tolerances.exact_attention(*arrays)
        more = tolerances.moved_by_rounded_logits(*arrays)
        return arrays, exact, tolerances.plain_attention(*arrays), more

    @staticmethod
    def shares(got, problem):
        _, exact, plain, more = problem
        seen = []
        tolerances.observer, before = lambda *given: seen.append(given), tolerances.observer
        try:
            for values in zip(got, exact, plain, TestLargeLogits.NAMES, more, strict=True):
                with contextlib.suppress(AssertionError):
                    tolerances.assert_within_budget(*values[:3], jnp.float32, *values[3:])
        finally:
            tolerances.observer = before
        return [error / allowed for error, allowed, _ in seen]

    def test_programs_that_round_elsewhere_use_less_than_half(self, problem):
        q, k, v, keep, scale, d_out, d_lse = problem[0]
        for factor in (np.float32(scale), np.float32(scale * np.log2(np.e))):
            # Scales first, by one factor or by two; the second rounds most.
            rest = float(scale / factor)
            out, lse, dq, dk, dv = tolerances.plain_attention(
                q * factor, k, v, keep, rest, d_out, d_lse
            )
            shares = self.shares((out, lse, dq * factor, dk, dv), problem)
            assert len(shares) == 5
            assert max(shares) < margins.NEAR

    @pytest.mark.parametrize(
        ("mistake", "seen_in"),
        [
            (lambda logits: 1e-3 * logits, NAMES),
            (lambda logits: 1e-5 * logits, ["lse"]),
            (
                lambda logits: np.asarray(jnp.asarray(logits, jnp.bfloat16), np.float64) - logits,
                NAMES,
            ),
            (lambda logits: np.round(logits * 256) / 256 - logits, NAMES),
            (
                lambda logits: np.log1p(np.resize([1e-3, -1e-3, 0], logits.shape)),
                ["out", "dq", "dk", "dv"],
            ),
        ],
        ids=[
            "a scale",
            "a scale's last digits",
            "logits in bfloat16",
            "logits to 1 / 256",
            "weights by a thousandth",
        ],
    )
    def test_mistakes_are_seen(self, problem, mistake, seen_in):
        q, k, _, _, scale, *_ = problem[0]
        logits = scale * np.einsum("bqhd,bkhd->bhqk", *(np.asarray(x, np.float64) for x in (q, k)))
        got = tolerances.exact_attention(*problem[0], mistake(logits))
        shares = dict(zip(self.NAMES, self.shares(got, problem), strict=True))
        assert {
            name: share > 1 for name, share in shares.items() if name in seen_in
        } == dict.fromkeys(seen_in, True), shares

    def test_a_softmax_without_its_maximum_is_seen(self, problem):
        (q, k, v, _, scale, *_), exact, plain, more = problem
        with np.errstate(all="ignore"):
            weights = np.exp(np.einsum("bqhd,bkhd->bhqk", q, k) * np.float32(scale))
            out = np.einsum("bhqk,bkhd->bqhd", weights / weights.sum(-1, keepdims=True), v)
        with pytest.raises(AssertionError, match="out holds NaN or inf"):
            tolerances.assert_within_budget(out, exact[0], plain[0], jnp.float32, "out", more[0])


def test_margins_are_of_the_worst_element_and_of_each_kind_of_comparison(tmp_path, monkeypatch):
    functions = np.testing.assert_allclose, type(pytest.approx(0.0)).__eq__, tolerances.observer
    monkeypatch.setenv(margins.FILE, str(tmp_path / "of_the_outer_run"))
    kept = margins.Margins(types.SimpleNamespace())
    try:
        np.testing.assert_allclose([1.0, 2.0, np.inf], [1.0, 2.1, np.inf], rtol=0, atol=0.4)
        np.testing.assert_allclose(np.zeros(3), 0)
        assert {"a": [1.0]} == {"a": pytest.approx([1.25], abs=0.5)}
        assert pytest.approx(1.0, abs=0.1) != 3.0
        tolerances.assert_at_most(3.0, 4.0, "x", near="a reason")
        with pytest.raises(AssertionError, match="x: error 2"):
            tolerances.assert_at_most(2.0, 1.0, "x")
    finally:
        kept.pytest_unconfigure()
    assert functions == (
        np.testing.assert_allclose,
        type(pytest.approx(0.0)).__eq__,
        tolerances.observer,
    )
    assert [round(m.share, 6) for m in kept.margins] == [0.25, 0.5, 0.75, 2.0]
    assert {m.where.partition(":")[0] for m in kept.margins} == {"test_tolerances.py"}
    assert [m.near for m in kept.margins] == ["", "", "a reason", ""]
    # What a test that passed meant to fail is no margin; one row is left of a test, near without a reason first.
    test = kept.margins[0].test
    report = type("Report", (), {"when": "call", "passed": True, "nodeid": test})
    kept.pytest_runtest_logreport(report)
    assert [round(m.share, 6) for m in kept.margins] == [0.25, 0.5, 0.75]
    assert [m.share for m in margins.worst_of_tests(kept.margins)] == [0.75]
    near = margins.Margin(0.6, 6.0, 10.0, test, "here")
    assert margins.worst_of_tests([*kept.margins, near]) == [near]
    # A run within a test leaves them to the outer one.
    kept.pytest_sessionfinish()
    rows = (tmp_path / "of_the_outer_run").read_text().splitlines()
    assert [margins.Margin(*json.loads(row)) for row in rows] == kept.margins


def test_a_record_says_for_which_processor_it_was_made(tmp_path, monkeypatch):
    jax.devices()  # JAX has started, so the flags are only read here
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_max_isa=AVX2 --xla_cpu_ftz")
    config = types.SimpleNamespace(invocation_params=types.SimpleNamespace(args=("tests", "-q")))
    found = [margins.Margin(share, 1.0, 1.0 / share, f"t{share}", "f:1") for share in (0.2, 0.6)]
    assert margins.record(config, found, folder=tmp_path) == "margins.jsonl"
    (row,) = read("margins", folder=tmp_path)
    assert row["config"]["max_isa"] == "AVX2"
    assert row["config"]["command"] == ["pytest", "tests", "-q"]
    assert row["environment"]["processor"]
    measured = row["measured"]
    assert (measured["comparisons"], measured["tests"], measured["near_without_reason"]) == (
        2,
        2,
        1,
    )
    assert [m["test"] for m in measured["worst"]] == ["t0.6", "t0.2"]
