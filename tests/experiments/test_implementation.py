"""A kernel that cannot run here is refused at the start of every command that takes its name."""

import dataclasses

import pytest

from experiments import head_fusion, measure_costs
from experiments.gpu_check import __main__ as gpu_check
from experiments.implementation import check_implementation
from pallas_kernels import dense_attention


@pytest.mark.parametrize("name", [None, "reference", "xla"])
def test_what_runs_everywhere_passes(name):
    check_implementation(name, head_dim=16, dtype="float32")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("mosaic_gpu", "mosaic_gpu needs a Hopper GPU; this process runs on cpu"),
        ("triton", "triton needs "),
        ("cudnn", "cudnn needs an NVIDIA GPU"),
        ("fast", "there are reference, xla"),
        ("", "there are reference, xla"),
    ],
)
@pytest.mark.parametrize("sparse", [True, False])
def test_what_cannot_run_here_is_refused_with_what_can(name, why, sparse):
    message = rf"--implementation {name} cannot run dense .*\({why}.*; choose reference or xla, or"
    with pytest.raises(ValueError, match=message):
        check_implementation(name, head_dim=64, dtype="bfloat16", sparse=sparse)


def test_an_implementation_of_dense_attention_alone_is_refused_beside_a_sparse_one(monkeypatch):
    """As cudnn is where it runs."""
    monkeypatch.setitem(check_implementation.__globals__["DENSE"], "only", None)
    call = dense_attention
    monkeypatch.setitem(
        check_implementation.__globals__,
        "dense_attention",
        lambda *qkv, implementation: call(*qkv, implementation="xla"),
    )
    check_implementation("only", head_dim=16, dtype="float32", sparse=False)
    with pytest.raises(
        ValueError, match=r"only cannot run block-sparse attention here \(there are"
    ):
        check_implementation("only", head_dim=16, dtype="float32")


@pytest.mark.parametrize("module", [measure_costs, head_fusion])
def test_measurements_ask_before_they_start(module, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "inputs", lambda *a: pytest.fail("started"))
    config = module.Config(implementation="mosaic_gpu", record=False, out=tmp_path)
    with pytest.raises(ValueError, match="--implementation mosaic_gpu cannot run"):
        module.main(dataclasses.replace(config, dtypes=("float32",)))
    assert not list(tmp_path.iterdir())


def test_gpu_check_refuses_a_name_that_no_operation_has():
    with pytest.raises(SystemExit, match="--implementation mosaik must be of cudnn, mosaic_gpu"):
        gpu_check.main(["--dry-run", "--implementation", "xla", "mosaik"])
