"""The ablation from weights to pictures, on a tiny untrained model and a small canvas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.adaspa_ablation import __main__ as command
from experiments.adaspa_ablation import ablation_pictures, mask_scores
from experiments.adaspa_ablation.quality import VARIANTS, QualityConfig
from experiments.adaspa_ablation.recall import recall_rows, static_keep, windows_of
from experiments.adaspa_ablation.stability import over_steps, stability_rows
from experiments.adaspa_ablation.tiny import kept, scaled
from experiments.adaspa_ablation.trace import TraceConfig, watched_run
from experiments.layer_inputs import layer_inputs
from experiments.record import read
from experiments.tiny_runs import SHIFT
from models.pipelines import Tiny
from models.tiny import TinyConfig, load_tiny, save_tiny
from sparsevdit_jax import TokenOrder, VideoGrid
from sparsevdit_jax.patterns import VerticalStripe
from tests.models.test_tiny import make_model

SIZES = TinyConfig(dim=32, num_layers=1, num_heads=2, condition_tokens=2)
SMALL = dict(video=(8, 32, 32), steps=5, dtype="float32")


@pytest.fixture(autouse=True)
def _standard_promotion():
    """The ablation is a program, not a package: it may mix dtypes as Python does."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_tiny(path, make_model(SIZES))
    return path


@pytest.fixture(scope="module")
def traced(weights, tmp_path_factory):
    config = TraceConfig(**SMALL, weights=weights, block=16)
    with jax.numpy_dtype_promotion("standard"):
        model = load_tiny(weights, dtype="float32")
        run = watched_run(model, config, tmp_path_factory.mktemp("trace"))
    return model, config, run


def test_quality_is_recorded_once_for_each_variant(weights, tmp_path, monkeypatch):
    chosen = next(v for v in VARIANTS if v.name == "no LSE cache")
    monkeypatch.setattr(command, "VARIANTS", (chosen,))
    config = command.Config(
        part="quality",
        densities=(0.5,),
        quality=QualityConfig(**SMALL, weights=weights, digits=(3, 7)),
        out=tmp_path / "out",
        results=tmp_path,
        allow_dirty=True,
    )
    command.main(config)
    (m,) = (row["measured"] for row in read(command.NAME, folder=tmp_path))
    assert m["variant"] == "no LSE cache"
    assert m["search_steps"] == [1, 3]
    assert 0.5 < m["density"] < 0.6  # text comes on top
    assert m["psnr_db"] == pytest.approx(np.mean(m["psnr_by_clip_db"]), abs=1e-3)
    assert 10 < m["psnr_db"] < 100
    assert 0 < m["ssim"] <= 1
    cost = 1.5 + 4 * m["density"] + 1
    assert m["attention_cost_ratio"] == pytest.approx(cost / 5)
    command.main(config)
    assert len(read(command.NAME, folder=tmp_path)) == 1


def test_the_watched_run_sees_what_the_layers_see(traced):
    model, config, run = traced
    assert config.clip_digits == [3, 7, 3, 7]
    assert config.search_steps == (0, 2)
    blocks = 4 * 8 * 8 // 16 + 1
    assert run["mass"].shape == (5, 1, 8, 2, blocks, blocks)
    time = float(Tiny(model.config, SHIFT).set_timesteps(5).timesteps[2])
    layers = layer_inputs(model, run["x"][1], time, config.clip_digits)
    for layer, (q, k, _) in enumerate(layers):
        logits = jnp.einsum("bqhd,bkhd->bhqk", q, k) * q.shape[-1] ** -0.5
        np.testing.assert_allclose(
            run["lse"][2, layer, :4], jax.nn.logsumexp(logits, axis=-1), rtol=1e-4, atol=1e-4
        )
    # Rows of masses hold their tokens, and the cached search is off by the change of the LSE.
    np.testing.assert_allclose(run["mass"].sum(-1)[..., :-1], 16, rtol=1e-3)
    np.testing.assert_array_equal(run["stale"][0], run["mass"][0])
    shift = np.exp(run["lse"][3] - run["lse"][0])[..., :256].reshape(1, 8, 2, 16, 16).sum(-1)
    np.testing.assert_allclose(run["stale"][3].sum(-1)[..., :-1], shift, rtol=1e-3)
    assert run["x"].shape == (2, 4, 8, 32, 32, 1)


def test_recall_of_every_method(traced):
    model, config, run = traced
    rows = {row["method"]: row for row in recall_rows(model, config, run["x"], (0.5,))}
    recalls = {name: np.asarray(row["recall_by_layer_and_head"]) for name, row in rows.items()}
    assert recalls["AdaSpa"].shape == (1, 1, 2)
    best = recalls.pop("best single entries")
    for name, recall in recalls.items():
        assert (recall <= 1 + 1e-6).all()
        if name.startswith("best"):
            assert (recall[-1] <= best[-1] + 2e-3).all()
    assert {"STA", "diagonal", "multi-diagonal", "stripe"} < set(rows)
    grid = model.grid(run["x"].shape[1:])
    assert static_keep(VerticalStripe(0.2, 16), grid, 2) is None  # the first frame is a quarter
    own, old = (recalls[f"AdaSpa, equal heads{w}"] for w in ("", ", first search's masks"))
    assert (own >= old - 1e-4).all()
    assert (own > old + 1e-4).any()
    assert rows["AdaSpa, equal heads"]["density_mean"][0] == pytest.approx(0.5, abs=0.05)


def test_stability_of_the_run(traced):
    model, config, run = traced
    grid = model.grid(run["x"].shape[1:])
    steps, cache, *elsewhere = stability_rows(config, grid, run)
    overlap, loss = np.asarray(steps["overlap"]), np.asarray(steps["recall_loss"])
    np.testing.assert_array_equal(np.diag(overlap), 1)
    np.testing.assert_allclose(overlap, overlap.T)
    np.testing.assert_array_equal(np.diag(loss), 0)
    assert (loss >= 0).all()
    assert loss.max() > 0
    assert np.shape(steps["lse_shift_by_layer_and_head"]) == (1, 2)
    assert cache["overlap_by_step"][0] == 1
    assert cache["first_step"] == 1
    taken = {row["mask_from"]: row for row in elsewhere}
    assert len(taken) == 9
    assert all(0 <= row["overlap_ratio"] <= 1 and row["recall_loss"] >= 0 for row in elsewhere)
    assert taken["other layer"]["recall_loss"] == 0  # there is one layer
    assert taken["random blocks"]["recall_loss"] > 0


def test_a_shift_of_whole_blocks_is_even():
    grid, rng = VideoGrid(2, 4, 4), np.random.default_rng(0)
    order = TokenOrder(grid, 8)
    lse = np.zeros((2, 1, 1, 1, 32), np.float32)
    lse[1] = np.repeat([1.0, -2.0, 3.0, 0.0], 8)
    mass = rng.uniform(size=(2, 1, 1, 1, 4, 4)).astype(np.float32)
    keep = np.stack([np.eye(4, dtype=bool), np.roll(np.eye(4, dtype=bool), 1, 1)])
    found = over_steps(keep.reshape(mass.shape), mass, lse, order, (0, 1))
    assert found["lse_shift"] == [[0, 1.5], [1.5, 0]]
    assert found["lse_uneven"] == [[0, 0], [0, 0]]
    assert found["overlap"] == [[1, 0], [0, 1]]
    lse[1] += np.tile([1.0, -1.0], 16)
    found = over_steps(keep.reshape(mass.shape), mass, lse, order, (0, 1))
    assert found["lse_uneven"] == [[0, 1], [1, 0]]
    with pytest.raises(ValueError, match="does not fill its blocks of 24"):
        over_steps(keep, mass, lse, TokenOrder(grid, 24), (0, 1))


def test_masks_are_the_best_of_their_size():
    order, rng = TokenOrder(VideoGrid(2, 4, 4, 4), 8), np.random.default_rng(0)
    mass = rng.uniform(size=(3, 5, 5))
    best = mask_scores.largest_blocks(mass[:, :4, :4], TokenOrder(VideoGrid(2, 4, 4), 8), 0.5)
    assert best.sum((1, 2)).tolist() == [8, 8, 8]
    for keep, values in zip(best, mass[:, :4, :4], strict=True):
        assert values[keep].min() > values[~keep].max()
    share = mask_scores.density(mask_scores.largest_blocks(mass, order, 0.3), order)
    assert (share <= 0.3 + 1e-3).all()
    assert (share > 0.25).all()
    rows = mask_scores.largest_in_rows(mass, 2)
    assert (rows.sum(-1) == 2).all()
    expected = np.sort(mass, axis=-1)[..., -2:].sum((-1, -2)) / mass.sum((-1, -2))
    np.testing.assert_allclose(mask_scores.recall(rows, mass), expected)
    assert mask_scores.element_recall(np.array([[4.0, 1], [3, 2]]), [0.25, 0.5]) == [0.4, 0.7]


def test_windows_and_steps():
    grid = VideoGrid(16, 16, 16)
    assert windows_of(grid, 0.15) == [(1, 3, 3), (3, 1, 3), (3, 3, 1)]
    assert (4, 3, 1) in windows_of(grid, 0.2)
    assert windows_of(VideoGrid(4, 8, 8), 0.1) == []
    assert scaled((10, 30), 20) == (4, 12)
    assert scaled((10, 30), 50) == (10, 30)


def test_a_kept_run_is_made_again_only_for_other_settings(tmp_path):
    made = []

    def make():
        made.append(1)
        return {"x": np.arange(3)}

    for config in (TraceConfig(), TraceConfig(), TraceConfig(steps=9)):
        np.testing.assert_array_equal(kept(tmp_path / "run.npz", config, make)["x"], [0, 1, 2])
    assert len(made) == 2


def test_pictures_of_written_records(tmp_path):
    by_head = np.linspace(0.2, 0.9, 8).reshape(2, 2, 2).tolist()
    recall = dict(
        part="recall",
        asked_density=[0.1, 0.2],
        density_mean=[0.1, 0.2],
        recall_mean=[0.3, 0.6],
        recall_by_layer_and_head=by_head,
    )
    square = np.eye(3).tolist()
    quality = dict(part="quality", asked_density=0.2, psnr_by_clip_db=[20.0, 21.0], psnr_db=20.5)
    measured = [
        *(dict(quality, variant=v.name) for v in VARIANTS[:3]),
        *(dict(recall, method=name) for name in ablation_pictures.LINES),
        dict(part="stability", over="steps", **dict.fromkeys(ablation_pictures.MATRICES, square)),
        dict(
            part="stability",
            over="LSE cache",
            first_step=2,
            recall_loss_by_step=[0.0, 0.1],
            recall_loss_worst_head_by_step=[0.0, 0.2],
        ),
        dict(part="stability", over="elsewhere", mask_from="other head", recall_loss=0.3),
    ]
    drawn = list(
        ablation_pictures.draw_all([{"measured": m} for m in measured], tmp_path / "pictures")
    )
    assert [path.name for path in drawn] == [
        f"adaspa_{name}.png" for name in ("quality", "recall", "best", "stability")
    ]
    for path in drawn:
        assert 5_000 < path.stat().st_size < 150_000


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: command.Config(densities=(0.2, 1.5)), "must lie in"),
        (lambda: QualityConfig(digits=(3, 12)), "must be 0 to 9"),
        (lambda: TraceConfig(digits=()), "must be 0 to 9, and one at least"),
        (lambda: TraceConfig(search=(40, 30)), "the second must come after the first"),
        (lambda: TraceConfig(steps=1), "raise steps"),
    ],
)
def test_bad_flags_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("content", [b"junk", b"", b"PK\x03\x04"])
def test_a_damaged_run_is_named_and_kept(content, tmp_path):
    path = tmp_path / "trace.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"trace\.npz is damaged .*move it away"):
        kept(path, TraceConfig(), lambda: pytest.fail("ran again"))
    assert path.read_bytes() == content
