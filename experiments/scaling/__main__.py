"""What does one denoising step of Wan 14B and HunyuanVideo at 720p take on several H200s?

    python -m experiments.scaling                          # 4 programs, 10 to 20 minutes on two cores; needs no GPU
    python -m experiments.scaling --only "hunyuanvideo sta"
    python -m experiments.scaling --predict-only           # seconds

Compiles the step for eight H200s in one machine, without a GPU, weights spread over them: memory of a device as XLA
plans it, and the bytes of each collective counted from the compiled program beside the formula. Then predicts the
step's time on 1 to 64 GPUs from published rates (`experiments.scaling.prediction`): nothing here is timed. Needs
jax >= 0.11.2 and the packages of the extra `aot` (`make test` installs them).
"""

import dataclasses

from experiments.full_size.cases import AXES, CASES, METHODS
from experiments.kernel_resources.deviceless import compile_for_h200
from experiments.record import Run
from experiments.scaling.prediction import Layout, Work, exchanged_bytes, predict

DEVICES = (1, 2, 4, 8, 16, 64)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Flags.

    Attributes:
      only: names of cases, such as "wan2.1-t2v-14b sta"; all by default.
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
    cases = {f"{case.name} {m}": (case, m) for case in CASES if case.name in AXES for m in METHODS}
    if unknown := sorted(set(config.only) - cases.keys()):
        raise SystemExit(f"only={unknown} are no cases; choose from {sorted(cases)}")
    run = Run.start("scaling", config, allow_dirty=config.allow_dirty)
    chosen = {name: cases[name] for name in config.only or cases}
    works = {name: Work.of(*chosen[name]) for name in chosen}
    for name, (case, method) in () if config.predict_only else chosen.items():
        work, layout = works[name], Layout(**{"cfg": 1} | AXES[case.name])
        listed = "experiments.full_size.cases:sharded_steps"
        (done,) = compile_for_h200(
            listed, name, timeout_s=config.timeout_s, dump=False, axes=AXES[case.name]
        )
        if done.error or done.memory is None:
            raise RuntimeError(f"{name} does not compile: {done.error}")
        memory = done.memory
        row = run.log(
            part="compiled",
            model=case.name,
            method=method,
            mesh=str(layout),
            devices=layout.devices,
            arguments_gb=memory["argument"] / 1e9,
            temporaries_gb=memory["temp"] / 1e9,
            peak_gb=(memory["argument"] + memory["temp"] + memory["output"] - memory["alias"]) / 1e9,
            exchange_formula_gb=exchanged_bytes(work, layout) / 1e9,
            weights_gb=2 * work.parameters / 1e9,
            compile_s=done.seconds,
            **{
                f"{kind.replace('-', '_')}_{what}": found["bytes"] / 1e9 if what == "gb" else found["count"]
                for kind, found in done.collectives.items()
                for what in ("count", "gb")
            },
        )  # fmt: skip
        print(row["measured"], flush=True)
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


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config, description=__doc__))
