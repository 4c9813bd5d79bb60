"""Branches of trained sparse attention: what joins them, how checkpoints hold them, and what is refused."""

import dataclasses
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from models import load_transformer, save_transformer
from models.combine import COMBINE, GateCompress, ProjectLinear, check_branches, combine_of
from models.wan.weights import ORIGINAL
from sparsevdit_jax import Phase, SparseAttention, StepSchedule
from sparsevdit_jax.patterns import VSA, Dense, SlidingTile
from tests import tolerances
from tests.models.wan.tiny_models import SMALL, build, run, run_pattern, small_inputs

GOLDEN = Path(__file__).parents[1] / "golden"
FILE = "diffusion_pytorch_model.safetensors"
TILE = (2, 2, 2)


class Fine(VSA):
    """VSA without its second branch, which is another function."""

    def side(self, q, k, v, plan, ctx):
        return None

    has_side = False


def test_the_gate_joins_vsas_branches_as_its_authors_do():
    with np.load(GOLDEN / "vsa_b_ragged.npz") as vectors:
        main, side, gate, want = (
            jnp.asarray(np.moveaxis(vectors[name], 1, 2), jnp.float32)
            for name in ("out_sparse", "out_compress", "gate", "out")
        )
    heads, dim = main.shape[2:]
    module = GateCompress(heads * dim, rngs=nnx.Rngs(0))
    hidden = gate.reshape(*gate.shape[:2], -1)
    np.testing.assert_array_equal(module(main, side, hidden), main)  # it starts at zero
    module.to_gate_compress.kernel.set_value(jnp.eye(heads * dim))
    tolerances.assert_rounding_apart(module(main, side, hidden), want, 5, "gated")


def test_the_projection_is_one_for_all_heads():
    main, side = np.random.default_rng(0).standard_normal((2, 1, 5, 3, 4)).astype(np.float32)
    module = ProjectLinear(4, rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(module(main, side, None), main)
    kernel = np.arange(16, dtype=np.float32).reshape(4, 4)
    module.proj_l.kernel.set_value(jnp.asarray(kernel))
    module.proj_l.bias.set_value(jnp.ones(4))
    np.testing.assert_allclose(module(main, side, None), main + side @ kernel + 1, rtol=1e-5)
    half = module(jnp.asarray(main, jnp.bfloat16), jnp.asarray(side, jnp.bfloat16), None)
    assert half.dtype == jnp.bfloat16


@pytest.mark.parametrize("method", COMBINE)
def test_a_folder_says_by_its_tensors_with_what_it_was_trained(tmp_path, method):
    """FastWan's gates stand beside attn1, in a folder whose config.json is that of a dense Wan."""
    model = build(dataclasses.replace(SMALL, combine=method))
    save_transformer(model, tmp_path / "trained")
    document = json.loads((tmp_path / "trained" / "config.json").read_text())
    save_transformer(build(SMALL), tmp_path / "dense")
    assert document == json.loads((tmp_path / "dense" / "config.json").read_text())
    names = set(load_file(tmp_path / "trained" / FILE))
    more = names - set(load_file(tmp_path / "dense" / FILE))
    stem = {"vsa": "blocks.0.to_gate_compress", "sla": "blocks.0.attn1.attn_impl.proj_l"}[method]
    assert more == {f"{stem}.weight", f"{stem}.bias"}

    loaded = load_transformer(tmp_path / "trained")
    assert loaded.config.combine == method
    assert load_transformer(tmp_path / "dense").config.combine is None
    save_transformer(loaded, tmp_path / "again")
    assert (tmp_path / "again" / FILE).read_bytes() == (tmp_path / "trained" / FILE).read_bytes()


def test_turbowans_names_are_read(tmp_path):
    """The original's names, in safetensors form, beside the config.json of diffusers."""
    save_transformer(build(dataclasses.replace(SMALL, combine="sla")), tmp_path / "ours")
    tensors = load_file(tmp_path / "ours" / FILE)
    theirs = {ours.replace("*", "0"): name.replace("*", "0") for name, ours in ORIGINAL.items()}

    def original(name):
        module = max((m for m in theirs if name.startswith(m)), key=len, default="")
        return theirs.get(module, module) + name.removeprefix(module)

    renamed = {original(name): tensor for name, tensor in tensors.items()}
    assert "blocks.0.self_attn.attn_op.local_attn.proj_l.weight" in renamed
    assert {"blocks.0.self_attn.q.weight", "blocks.0.modulation", "head.head.bias"} <= set(renamed)
    folder = tmp_path / "theirs"
    folder.mkdir()
    save_file(renamed, folder / FILE, metadata={"format": "pt"})
    (folder / "config.json").write_text((tmp_path / "ours" / "config.json").read_text())
    found, want = load_transformer(folder), load_transformer(tmp_path / "ours")
    assert found.config == want.config
    for (path, a), (_, b) in zip(
        nnx.to_flat_state(nnx.state(found)), nnx.to_flat_state(nnx.state(want)), strict=True
    ):
        np.testing.assert_array_equal(a[...], b[...], str(path))


@pytest.mark.parametrize("phase", [Phase.REUSE, Phase.DENSE])
def test_a_trained_wan_adds_its_gated_branch(phase):
    trained = build(dataclasses.replace(SMALL, combine="vsa"))
    inputs, pattern = small_inputs((4, 8, 8)), VSA(0.5, TILE)
    gated, _ = run_pattern(trained, inputs, pattern, phase=phase)
    attention = trained.blocks[0].attn1
    for part in ("kernel", "bias"):
        parameter = getattr(attention.combine.to_gate_compress, part)
        parameter.set_value(jnp.zeros_like(parameter[...]))
    closed, _ = run_pattern(trained, inputs, pattern, phase=phase)
    assert np.abs(np.asarray(gated) - np.asarray(closed)).max() > 1e-3
    attention.combine, trained.config = None, SMALL
    alone, _ = run_pattern(trained, inputs, Fine(0.5, TILE), phase=phase)
    np.testing.assert_allclose(closed, alone, rtol=1e-5, atol=1e-6)


def test_a_trained_branch_is_not_left_out():
    trained = build(dataclasses.replace(SMALL, combine="vsa"))
    with pytest.raises(ValueError, match="trained with vsa, whose second branch dense attention"):
        run(trained, small_inputs((4, 8, 8)))
    schedule = StepSchedule(2)
    for pattern in (Dense(), SlidingTile(TILE, (1, 1, 1))):
        attention = SparseAttention((VSA(0.5), pattern), schedule)
        with pytest.raises(ValueError, match="whose second branch"):
            check_branches("vsa", attention)
    check_branches("vsa", SparseAttention((VSA(0.5), VSA(1.0)), schedule))
    check_branches(None, None)


def test_names_of_tensors():
    assert combine_of(["blocks.0.to_gate_compress.weight", "x"]) == "vsa"
    assert combine_of(["blocks.7.self_attn.attn_op.local_attn.proj_l.bias"]) == "sla"
    assert combine_of(["blocks.0.attn1.to_q.weight"]) is None
    with pytest.raises(ValueError, match="combine='moba' is not implemented"):
        dataclasses.replace(SMALL, combine="moba")
