import sys
import types

import jax
import pytest

from pallas_kernels import _triton_call


class Device:
    device_kind = "a GPU"

    def __init__(self, compute_capability):
        self.compute_capability = compute_capability


def on_gpu(monkeypatch, capability, installed=()):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "devices", lambda: [Device(capability)])
    monkeypatch.setattr(
        _triton_call.importlib.util, "find_spec", lambda name: name in installed or None
    )


def test_refuses_without_a_gpu():
    with pytest.raises(NotImplementedError, match="needs a GPU; this process runs on cpu"):
        _triton_call.refuse_unless_available()


@pytest.mark.parametrize(
    ("installed", "named"), [((), "jax_triton and triton"), (("triton",), "needs jax_triton: pip")]
)
def test_refuses_without_its_packages_and_names_the_extra(monkeypatch, installed, named):
    on_gpu(monkeypatch, "9.0", installed)
    with pytest.raises(NotImplementedError, match=named) as refusal:
        _triton_call.refuse_unless_available()
    assert "sparsevdit-jax[triton]" in str(refusal.value)


def test_refuses_old_gpus(monkeypatch):
    on_gpu(monkeypatch, "7.5", ("jax_triton", "triton"))
    with pytest.raises(NotImplementedError, match=r"8\.0 or higher; a GPU has 7\.5"):
        _triton_call.refuse_unless_available()


@pytest.mark.parametrize("capability", ["8.0", "9.0", "10.0", "gfx942"])
def test_runs_on_what_it_was_written_for(monkeypatch, capability):
    on_gpu(monkeypatch, capability, ("jax_triton", "triton"))
    assert _triton_call.refuse_unless_available() is None


def test_use_launches_elsewhere_and_ends():
    def launcher(*_, **options):
        return options["grid"]

    options = {"out": [], "num_warps": 4, "num_stages": 2, "constants": {}}
    with _triton_call.use(launcher):
        _triton_call.refuse_unless_available()
        assert _triton_call.call(None, [], [], grid=(1, 2, 3), **options) == (1, 2, 3)
    with pytest.raises(NotImplementedError):
        _triton_call.refuse_unless_available()


@pytest.mark.parametrize("name", ["out_shape", "out_type"])
def test_every_jax_triton_gets_its_name_for_the_results(monkeypatch, name):
    seen = {}

    def triton_call(*args, kernel, grid, num_warps, num_stages, **rest):
        seen.update(args=args, rest=rest)

    def old(*args, out_shape, **rest):
        triton_call(*args, out_shape=out_shape, **rest)

    def new(*args, out_type=None, **rest):
        triton_call(*args, out_type=out_type, **rest)

    module = types.SimpleNamespace(triton_call={"out_shape": old, "out_type": new}[name])
    monkeypatch.setitem(sys.modules, "jax_triton", module)
    _triton_call.launch(
        "kernel", ["x"], [7], out=["y"], grid=(1, 1, 1), num_warps=4, num_stages=2,
        constants={"TILE": 16},
    )  # fmt: skip
    assert seen == {"args": ("x", 7), "rest": {name: ("y",), "TILE": 16}}
