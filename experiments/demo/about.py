"""The last part of the page: settings, how to repeat the run, a glossary, and what not to conclude."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.demo.curve import loss_curve
from experiments.demo.files import Files
from experiments.html.markup import Safe, element, finite, number

SETTINGS = {
    "digit": "digit",
    "seed": "seed of the noise",
    "steps": "denoising steps",
    "guidance": "guidance scale",
    "video": "clip (frames, rows, columns)",
    "grid": "video tokens (frames, rows, columns)",
    "text_tokens": "condition tokens",
    "tokens": "tokens in all",
    "layers": "layers",
    "heads": "heads per layer",
    "head_dim": "channels per head",
    "parameters": "parameters",
    "dtype": "dtype of the model",
}
PAPERS = (
    ("STA", "Sliding tile attention: every tile of tokens reads a window of tiles", "2502.04507"),
    ("AdaSpa", "Keeps the blocks with the most attention mass, found during the run", "2502.21079"),
    (
        "Sparse-vDiT",
        "One of five fixed modes for each head: dense, skip, bands, stripes",
        "2506.03065",
    ),
)
WORDS = (
    (
        "Block pair",
        "64 neighbouring query tokens and 64 key tokens (in a method's own token order). A sparse "
        "method computes a pair whole or not at all.",
    ),
    (
        "Density",
        "Share of block pairs that are computed, counted in tokens; 100 % is dense. “Sparse step” "
        "leaves the dense warm-up out, “whole run” has it in.",
    ),
    (
        "Recall",
        "Share of dense attention's probability that falls on the computed pairs; 100 % loses "
        "nothing. Measured in one step of the dense run.",
    ),
    (
        "Output error",
        "Length of the difference between sparse and dense attention output over the length of "
        "the dense one, on the same inputs.",
    ),
    (
        "PSNR",
        "Peak signal-to-noise ratio of the finished clip against the dense one, in decibels. "
        "Above 30 dB the two are hard to tell apart; below 20 dB they differ plainly.",
    ),
    ("SSIM", "Structural similarity of the frames to the dense ones; 1 is identical."),
    (
        "Attention’s time",
        "What is left of a step when the rest of the model, which takes the same time under every "
        "method, is taken off. How much of a dense step that is was timed by itself.",
    ),
    (
        "Whole run",
        "All steps together: dense ones, sparse ones, and what the searches add.",
    ),
    (
        "Warm-up, search, reuse",
        "Steps with dense attention at the start; steps that also choose blocks; steps that use "
        "the chosen ones.",
    ),
)


def settings_table(settings: Mapping[str, Any], environment: Mapping[str, Any]) -> Safe:
    """Two lists: what was run, and on what."""
    named = [(SETTINGS.get(key, key), value) for key, value in settings.items()]
    return element(
        "div",
        _list("Run", named),
        _list("Machine", [(key.replace("_", " "), value) for key, value in environment.items()]),
        class_="lists",
    )


def _list(title: str, rows: Sequence[tuple[str, Any]]) -> Safe | None:
    rows = [(name, value) for name, value in rows if value is not None and value != ""]
    if not rows:
        return None
    pairs = [
        element("div", element("dt", name), element("dd", text(value))) for name, value in rows
    ]
    return element("div", element("h3", title), element("dl", pairs))


def text(value: Any) -> str:
    """A setting as people write it: 16 x 16 x 16, 5 444 128."""
    if isinstance(value, list | tuple):
        return " × ".join(text(item) for item in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {text(item)}" for key, item in value.items())
    if isinstance(value, bool) or finite(value) is None:
        return str(value)
    if isinstance(value, int):
        return number(value, 0) if abs(value) >= 10_000 else str(value)
    return f"{value:.4g}"


def reproduce(settings: Mapping[str, Any], link: Files) -> Safe:
    """The command of this run, and where its numbers are."""
    words = ["make demo"]
    words += [
        f"{n.upper()}={settings[n]}" for n in ("seed", "digit") if settings.get(n) is not None
    ]
    flags = [f"--{n} {settings[n]}" for n in ("steps", "guidance", "dtype") if settings.get(n)]
    words += [f'ARGS="{" ".join(flags)}"'] if flags else []
    numbers = link("results.json")
    return element(
        "div",
        element(
            "p",
            "From a clone of the project; another seed or digit gives another clip. ",
            ["All numbers of this page: ", element("a", "results.json", href=numbers), "."]
            if numbers
            else None,
        ),
        element("pre", element("code", " ".join(words)), tabindex=0),
    )


def caveats(results: Mapping[str, Any], methods: Sequence[Mapping[str, Any]]) -> Safe:
    """What the numbers do not say."""
    settings, machine = results.get("settings") or {}, results.get("environment") or {}
    size = finite(settings.get("parameters"))
    model = f"a toy model of {size / 1e6:.1f} M parameters" if size else "a toy model"
    where = machine.get("cpu") or machine.get("processor") or machine.get("device")
    rows = [
        f"This is {model} that draws digits. It shows how the methods behave, not how well they "
        "do on a production model with hundreds of times its parameters.",
        f"Times are of this machine{f' ({where})' if where else ''}; on another device the ratios "
        "are different. They were taken after all clips were made, in "
        f"{number(settings.get('rounds'), 0)} rounds with a dense step right beside each sparse one: "
        "a speed-up is the median of the ratios to the step beside it, with the smallest and the "
        "largest. Where those lie too far apart, as they do when other programs run, a word stands "
        "in place of the number.",
        "PSNR, SSIM and recall measure closeness to the dense run, not how good a clip looks. A "
        "clip can differ and still be a fine digit: look at it.",
        "One seed and one digit. The order of methods with close numbers may change with another.",
    ]
    tokens = finite(settings.get("tokens"))
    if tokens and tokens < 20_000:
        rows.append(
            f"At {number(tokens, 0)} tokens attention is only a part of a step, so even attention "
            "for free would not make a step arbitrarily fast; the part grows with the length."
        )
    if any(m.get("variant") for m in methods):
        rows.append("Variants (hollow markers) show how a method moves with its setting.")
    return element("ul", [element("li", row) for row in rows])


def glossary() -> Safe:
    """Words of the page, and the papers."""
    rows = [element("div", element("dt", word), element("dd", meaning)) for word, meaning in WORDS]
    for name, meaning, paper in PAPERS:
        source = element(
            "a", f"arXiv {paper}", href=f"https://arxiv.org/abs/{paper}", rel="noreferrer"
        )
        rows.append(
            element("div", element("dt", name), element("dd", f"{meaning} (", source, ")."))
        )
    return element("dl", rows, class_="glossary")


def training(record: Any) -> Safe | None:
    """How the model was trained; nothing without a record."""
    if not isinstance(record, Mapping):
        return None
    picture = loss_curve(record.get("loss"))
    rows = _flat(record.get("record") or {})
    if not rows and picture is None:
        return None
    return element(
        "section",
        element("h2", "How the model was trained"),
        element(
            "div",
            element("figure", picture, element("figcaption", "Training loss."))
            if picture
            else None,
            _list("Record", rows),
            class_="lists",
        ),
        id="training",
    )


def _flat(record: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Names and plain values of a nested record; long lists are left to results.json."""
    rows: list[tuple[str, Any]] = []
    for key, value in record.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, Mapping):
            rows += _flat(value, f"{name}: ")
        elif not isinstance(value, list | tuple) or (
            len(value) <= 4 and not any(isinstance(item, list | tuple | Mapping) for item in value)
        ):
            rows.append((name, value))
    return rows
