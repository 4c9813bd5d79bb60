"""What do one denoising step and decoding of Wan 14B and HunyuanVideo at 720p take on several H200s?

    python -m experiments.scaling                          # 8 programs, 10 to 20 minutes on two cores; needs no GPU
    python -m experiments.scaling --only "hunyuanvideo sta" "hunyuanvideo decode"
    python -m experiments.scaling --predict-only           # seconds

Compiles the step for eight H200s in one machine, without a GPU, with sharded weights. Records the memory of a device
as XLA plans it, and the bytes of each collective in the compiled program beside a formula. Does the same for decoding
the clip, beside what one device holds at a time. Then predicts the step's time on 1 to 64 GPUs from published rates
(`experiments.scaling.prediction`): nothing here is timed. Needs jax >= 0.11.2 and the packages of the extra `aot`
(`make test` installs them).
"""

import dataclasses

from experiments import command
from experiments.full_size.published_clips import AXES, METHODS, FullSize, spread_cases
from experiments.kernel_resources.deviceless import Compiled, compile_for_h200
from experiments.record import Run
from experiments.scaling.prediction import Layout, Work, exchanged_bytes, predict

DEVICES = (1, 2, 4, 8, 16, 64)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Flags.

    Attributes:
      only: names of cases, such as "wan2.1-t2v-14b sta" or "wan2.1-t2v-14b decode"; all by default.
      predict_only: compile nothing.
      timeout_s: for one case.
      allow_dirty: record results of uncommitted code, marked as such.
    """

    only: tuple[str, ...] = ()
    predict_only: bool = False
    timeout_s: float = 3600
    allow_dirty: bool = False


def main(config: Config) -> None:
    """Compiles, predicts and records."""
    steps = {f"{case.name} {m}": (case, m) for case in spread_cases() for m in METHODS}
    decoded = {f"{case.name} decode": case for case in spread_cases()}
    cases = [*steps, *decoded]
    if unknown := sorted(set(config.only) - set(cases)):
        raise SystemExit(f"only={unknown} are no cases; choose from {sorted(cases)}")
    if config.predict_only and set(config.only) & decoded.keys():
        raise SystemExit(
            f"only={config.only} has decoding, which is not predicted; leave it or --predict-only out"
        )
    run = Run.start("scaling", config, allow_dirty=config.allow_dirty)
    chosen = {name: steps[name] for name in config.only or cases if name in steps}
    works = {name: Work.of(*chosen[name]) for name in chosen}
    if not config.predict_only:
        for name, (case, method) in chosen.items():
            _log_step(run, config, name, case, method, works[name])
        for name in config.only or cases:
            if name in decoded:
                _log_decoding(run, config, name, decoded[name])
    for name, (case, method) in chosen.items():
        work = works[name]
        alone = predict(work, Layout(1, 1)).step_s
        for devices in DEVICES:
            layout = Layout.of(work, devices)
            found = predict(work, layout)
            row = run.log(
                part="predicted",
                model=case.name,
                method=method,
                mesh=str(layout),
                devices=devices,
                predicted_matmul_s=found.matmul_s,
                predicted_attention_s=found.attention_s,
                predicted_exchange_s=found.exchange_s,
                predicted_step_s=found.step_s,
                predicted_speedup=alone / found.step_s,
            )
            print(row["measured"], flush=True)


def _log_step(run: Run, config: Config, name: str, case: FullSize, method: str, work: Work) -> None:
    layout = Layout(**{"cfg": 1} | AXES[case.name])
    done = _compiled(config, "sharded_steps", name, AXES[case.name])
    row = run.log(
        part="compiled",
        model=case.name,
        method=method,
        mesh=str(layout),
        devices=layout.devices,
        exchange_formula_gb=exchanged_bytes(work, layout) / 1e9,
        weights_gb=2 * work.parameters / 1e9,
        **_counted(done),
    )
    print(row["measured"], flush=True)


def _log_decoding(run: Run, config: Config, name: str, case: FullSize) -> None:
    """On one device what it holds at a time, on eight all of it."""
    for axes, listed in (({}, "decodes"), (AXES[case.name], "sharded_decodes")):
        layout = Layout(**{"cfg": 1, "seq": 1} | axes)
        nothing = {"collective_permute_gb": 0.0, "all_gather_gb": 0.0}
        counted = nothing | _counted(_compiled(config, listed, name, axes))
        row = run.log(
            part="decoding",
            model=case.name,
            clip=str(case.clip),
            mesh=str(layout),
            devices=layout.devices,
            **counted,
        )
        print(row["measured"], flush=True)


def _compiled(config: Config, listed: str, name: str, axes: dict[str, int]) -> Compiled:
    (done,) = compile_for_h200(
        f"experiments.full_size.published_clips:{listed}",
        name,
        timeout_s=config.timeout_s,
        dump=False,
        axes=axes,
    )
    if done.error or done.memory is None:
        raise RuntimeError(f"{name} does not compile: {done.error}")
    return done


def _counted(done: Compiled) -> dict[str, float]:
    """Memory of a device, and what devices exchange."""
    memory = done.memory
    peak = memory["argument"] + memory["temp"] + memory["output"] - memory["alias"]
    counted = {
        "arguments_gb": memory["argument"] / 1e9,
        "temporaries_gb": memory["temp"] / 1e9,
        "peak_gb": peak / 1e9,
        "compile_s": done.seconds,
    }
    for kind, found in done.collectives.items():
        kind = kind.replace("-", "_")
        counted |= {f"{kind}_count": found["count"], f"{kind}_gb": found["bytes"] / 1e9}
    return counted


if __name__ == "__main__":
    command.run(main, Config, description=__doc__)
