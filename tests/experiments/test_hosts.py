"""Two real processes of two devices each, over loopback: killed in the middle, restarted, the same bits."""

import json
import os
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from experiments import hosts
from experiments.generation.generate_flags import Config
from experiments.generation.generation import Generation
from experiments.training import training_mesh
from models.tiny import TinyVideoDiT, save_tiny

from .. import compiling
from ..models.random_weights import random_model
from .generation import folders
from .one_host import SMALL as TINY

SMALL = dict(frames=9, height=64, width=96, steps=4)
SMALL |= dict(prompt=("a cat rides a skateboard",), seed=(3,))
ON_FOUR = dict(cfg=2, seq=2)
GENERATE = SMALL | ON_FOUR | dict(attention="adaspa", save_every=1, frames=25)
TRAIN = dict(save_every=2, data=2, seq=2)
FINETUNE = TRAIN | dict(batch=2, steps=4, canvas=(2, 8, 8), window=(1, 1, 1))
FINETUNE |= dict(held_out=1, digits=(7,), sampling_steps=1)


@pytest.fixture(scope="module")
def wan(tmp_path_factory):
    return folders.wan(tmp_path_factory.mktemp("wan"))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Image to video with a LoRA; nothing; a teacher."""
    folder = tmp_path_factory.mktemp("inputs")
    model = folders.cogvideox(folder / "cogvideox", image=True)
    Image.new("RGB", (96, 64), (200, 30, 30)).save(folder / "first.png")
    rng, name = np.random.default_rng(0), "transformer.transformer_blocks.0.attn1.to_q"
    lora = {f"{name}.lora_A.weight": (2, 32), f"{name}.lora_B.weight": (32, 2)}
    lora = {k: rng.normal(size=shape).astype(np.float32) for k, shape in lora.items()}
    save_file(lora, folder / "lora.safetensors")
    teacher = folder / "teacher.safetensors"
    save_tiny(teacher, random_model(TinyVideoDiT, TINY))
    files = {"model": model, "image": folder / "first.png"}
    return {
        "generate": {k: str(v) for k, v in files.items()}
        | {"lora": [str(folder / "lora.safetensors")]},
        "train": {},
        "finetune": {"weights": str(teacher)},
    }


def environment(devices: int, **variables: str) -> dict[str, str]:
    """This process's, without a cluster that JAX might find in it."""
    theirs = ("JAX_", "XLA_", "SLURM_", "OMPI_", "KUBERNETES_")
    cache = ("JAX_COMPILATION_CACHE", "JAX_PERSISTENT_CACHE")
    kept = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(cache) or not name.startswith(theirs)
    }
    least = compiling.least()
    least["XLA_FLAGS"] += f" --xla_force_host_platform_device_count={devices}"
    return kept | {"JAX_PLATFORMS": "cpu"} | least | variables


def launch(kind, runs, log, *more, devices=2, **variables) -> subprocess.Popen:
    runs = {str(out): flags for out, flags in runs.items()}
    command = [sys.executable, "-m", "tests.experiments.one_host", kind, json.dumps(runs), *more]
    with open(log, "a") as file:
        return subprocess.Popen(
            command, env=environment(devices, **variables), stdout=file, stderr=subprocess.STDOUT
        )


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def two(kind, runs, logs, *more) -> list[subprocess.Popen]:
    """Two processes that know of each other."""
    variables = dict(JAX_COORDINATOR_ADDRESS=f"127.0.0.1:{free_port()}", JAX_NUM_PROCESSES="2")
    return [
        launch(kind, runs, log, *more, **variables, JAX_PROCESS_ID=str(i))
        for i, log in enumerate(logs)
    ]


def finish(processes, logs) -> None:
    for process in processes:
        assert process.wait(timeout=600) == 0, said(logs)


def kill(processes, stopped, logs) -> None:
    """kill -9 while the first process sleeps and the other waits for it."""
    deadline = time.monotonic() + 600
    while not stopped.exists() and time.monotonic() < deadline:
        assert all(process.poll() is None for process in processes), said(logs)
        time.sleep(0.1)
    assert stopped.exists(), said(logs)
    for process in processes:
        process.kill()
        process.wait()


def said(logs) -> str:
    return "\n".join(path.read_text() for path in logs)


def arrays(out) -> list[np.ndarray]:
    with np.load(out.with_suffix(".npz")) as file:
        return [file[name] for name in file.files]


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "flags"),
    [
        ("generate", GENERATE),
        # Both save and resume through `experiments.training`, which test_train_tiny tests on one host.
        pytest.param("train", TRAIN, marks=pytest.mark.slow),
        pytest.param("finetune", FINETUNE, marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_goes_on_and_ends_with_the_same_bits(kind, flags, inputs, tmp_path):
    flags = flags | inputs[kind] | {"distributed": True}
    whole, broken, logs = tmp_path / "whole", tmp_path / "broken", [tmp_path / "0", tmp_path / "1"]
    processes = two(kind, {whole: flags, broken: flags}, logs, "--stop")
    kill(processes, broken.with_suffix(".stopped"), logs)
    assert not broken.with_suffix(".npz").exists()
    if kind != "generate":
        assert [
            path.name for path in (broken / "checkpoints").iterdir() if path.name.isdigit()
        ] == ["2"]
    finish(two(kind, {broken: flags}, logs), logs)
    found = arrays(broken)
    # Latents and video; weights and all that is kept of them.
    assert len(found) == {"generate": 2, "train": 110, "finetune": 110}[kind]
    for a, b in zip(found, arrays(whole), strict=True):
        np.testing.assert_array_equal(a, b)
    if kind == "generate":
        assert broken.with_suffix(".mp4").read_bytes() == whole.with_suffix(".mp4").read_bytes()
        assert not list(tmp_path.glob("*.run.safetensors*"))
        assert "goes on after step 2 of 4" in logs[0].read_text()
        assert "goes on" not in logs[1].read_text()
    else:
        name = {"train": "tiny_digits", "finetune": "finetuned"}[kind]
        assert (broken / f"{name}.safetensors").is_file()


def test_a_mesh_of_one_process_makes_the_same_video(wan, tmp_path):
    flags = SMALL | dict(model=str(wan), attention="sta", frames=25)
    mesh = ON_FOUR | dict(shard_weights=True)
    runs = {tmp_path / "plain": flags, tmp_path / "mesh": flags | mesh}
    log = tmp_path / "log"
    finish([launch("generate", runs, log, devices=4)], [log])
    assert "2 heads assigned to 2 devices by work: the busiest has 1.00" in log.read_text()
    (plain, video), (mesh, on_mesh) = arrays(tmp_path / "plain"), arrays(tmp_path / "mesh")
    # Products over at most 256 numbers round differently in pieces of another shape, in 2 layers; guidance of 5
    # takes 5 and 4 times two predictions; 4 steps, each on what the last one gave.
    eps = np.finfo(np.float32).eps
    np.testing.assert_allclose(
        mesh, plain, rtol=0, atol=4 * 9 * 2 * np.sqrt(256) * eps * np.abs(plain).max()
    )
    # Bytes: a value may lie on the border between two.
    assert np.abs(video.astype(np.int16) - on_mesh).max() <= 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(cfg=2, guidance=1.0), r"cfg=2 must divide the rows .* here 1 .* leave --cfg out"),
        (dict(cfg=3), r"cfg=3 must divide the rows .* here 2"),
        (dict(shard_weights=True), "shard_weights=True shards weights over several devices; give"),
        (dict(seq=0), "seq=0 must be at least 1"),
        (dict(seq=1000), r"need 1000 devices, but JAX has \d+"),
        (
            dict(seq=1000, distributed=True),
            r"--cfg 1 --seq 1000 makes 1000 devices, but with --distributed it must use all \d+ of",
        ),
    ],
)
def test_meshes_that_cannot_be_are_refused(wan, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        Generation(Config(model=wan, out=tmp_path / "x.mp4", **SMALL, **change))


def test_batches_that_do_not_divide_are_refused():
    with pytest.raises(
        ValueError, match=r"data=4 must divide the clips .* some have 1, 2; .*--seq"
    ):
        training_mesh(data=4, seq=1, distributed=False, batches=[16, 2, 1])
    assert training_mesh(data=1, seq=1, distributed=False, batches=[1]) is None


def test_without_addresses_the_command_says_what_to_set(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "experiments.generate", "--distributed", "--model", tmp_path, "--prompt", "x"],
        capture_output=True, text=True, check=False, env=environment(1, JAX_PROCESS_ID="0"),
    )  # fmt: skip
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: --distributed: the environment (JAX_COORDINATOR_ADDRESS=''")
    assert "set JAX_COORDINATOR_ADDRESS=HOST:PORT" in last


def test_alone_nothing_changes(capsys):
    tree = {"a": jax.numpy.ones(3)}
    hosts.start(False)
    hosts.barrier("alone")
    hosts.agree(3, "a step")
    hosts.say("said")
    assert hosts.is_first()
    assert hosts.from_first(tree) is hosts.on_every(tree, None) is hosts.by_rows(tree, None) is tree
    np.testing.assert_array_equal(hosts.to_host(tree["a"]), hosts.here(tree)["a"])
    assert capsys.readouterr().out == "said\n"
