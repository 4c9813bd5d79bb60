import copy
import json
import math
import re

import numpy as np
import pytest
from PIL import Image

from experiments.demo import demo_page, panels
from experiments.demo.rounds import READING
from tests.experiments.documents import Document

NASTY = "<script>alert('x')</script> & \"quoted\" {{title}} \u2028 ]]> <!-- </style>"


def spread(median, width=0.1):
    return {"median": median, "low": median * (1 - width), "high": median * (1 + width)}


def method(key, density, psnr, **more):
    seconds = 0.4 + density
    return {
        "key": key,
        "label": key.capitalize(),
        "note": f"note of {key}",
        "variant": False,
        "density": density,
        "density_run": 0.2 + 0.8 * density,
        "recall": 0.6 + 0.4 * density,
        "output_error": 0.1,
        "psnr_db": psnr,
        "ssim": 0.9,
        "attention_ms": spread(1000 * density),
        "step_ms": spread(1000 * seconds),
        "run_s": spread(30 * seconds),
        "speedup_attention": spread(1 / density),
        "speedup_step": spread(1.4 / seconds),
        "speedup_run": spread(1.3 / seconds),
        "phases": {"dense": 6, "search": 0, "reuse": 24},
        "video": f"{key}.mp4",
        "gif": f"{key}.gif",
        "sheet": f"{key}_frames.png",
        "difference": None if key == "dense" else f"{key}_difference.mp4",
        **more,
    }


@pytest.fixture
def results(tmp_path):
    """A full set of results, and the files that it names in tmp_path."""
    methods = [
        method("dense", 1.0, None, ssim=1.0),
        method("sta", 0.34, 27.4),
        method("adaspa", 0.2, 25.8, phases={"dense": 5, "search": 2, "reuse": 23}),
        method("sta-narrow", 0.05, 16.2, variant=True),
    ]
    pictures = [
        {"file": "masks sta.png", "title": "T", "caption": "C", "group": "masks", "method": "sta"},
        {"file": "maps.png", "title": "M", "caption": "C", "group": "attention", "method": "dense"},
        {"file": "all.png", "title": "A", "caption": "C", "group": "masks", "method": None},
    ]
    for row in methods:
        for field in ("video", "gif", "difference"):
            if row[field]:
                (tmp_path / row[field]).write_bytes(b"\0")
        Image.new("RGB", (40, 10)).save(tmp_path / row["sheet"])
    for picture in pictures:
        Image.new("RGB", (30, 30)).save(tmp_path / picture["file"])
    maps = {"density": [[0.3, 0.4], [0.2, 0.35]], "recall": [[0.9, 0.95], [0.7, 1.0]]}
    return {
        "title": "One clip",
        "settings": {
            "seed": 5,
            "digit": 3,
            "steps": 30,
            "video": [32, 64, 64],
            "grid": (16, 16, 16),
            "tokens": 4104,
            "parameters": 5444128,
        },
        "environment": {"python": "3.12", "cpu": "a processor", "commit": "abc"},
        "methods": methods,
        "heads": {
            "dense": {"density": [[1.0] * 2] * 2, "recall": [[1.0] * 2] * 2},
            "sta": maps,
            "adaspa": {**maps, "mode": [["diagonal", "stripe"], ["skip"]]},
        },
        "pictures": pictures,
        "training": {
            "loss": [[50, 0.5], [100, 0.1], [30000, 0.02]],
            "record": {"steps": 30000, "data": {"name": "digits"}},
        },
    }


def written(folder, results):
    path = demo_page.write_page(folder, results)
    assert path == folder / "index.html"
    return Document(path.read_text(encoding="utf-8"))


def check_links(folder, document):
    """All that the page loads lies beside it; only links to papers leave the folder."""
    own = [a["id"] for _, a in document.tags if "id" in a]
    assert len(own) == len(set(own))
    for tag, attributes in document.tags:
        for name in ("src", "href"):
            url = attributes.get(name)
            if url is None or url == "data:,":
                continue
            if url.startswith("#"):
                assert url[1:] in own
            elif url.startswith("http"):
                assert tag == "a"
                assert url.startswith("https://arxiv.org/abs/")
            else:
                assert (folder / url.replace("%20", " ")).is_file(), url
        for name in ("aria-controls", "aria-labelledby"):
            assert attributes.get(name, own[0]) in own


def test_the_page_is_one_folder_that_opens_offline(tmp_path, results):
    document = written(tmp_path, results)
    check_links(tmp_path, document)
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "{{" not in text
    assert not re.search(r"fetch\(|XMLHttpRequest|import\(|@import|url\(", text)
    assert len(document.all("script")) == 2
    assert not any("src" in script for script in document.all("script"))


def test_every_clip_is_shown_with_its_difference_dense_first(tmp_path, results):
    document = written(tmp_path, results)
    videos = document.all("video")
    clips = [v["src"] for v in videos if v["data-role"] == "clip"]
    assert clips == ["dense.mp4", "sta.mp4", "adaspa.mp4", "sta-narrow.mp4"]
    changes = [v for v in videos if v["data-role"] == "difference"]
    assert [v["src"] for v in changes] == [f"{c[:-4]}_difference.mp4" for c in clips[1:]]
    assert all("hidden" in v for v in changes)
    assert all("muted" in v and "controls" in v for v in videos)


def test_without_mp4_files_the_gifs_are_shown(tmp_path, results):
    for row in results["methods"]:
        row["video"] = None
    document = written(tmp_path, results)
    clips = [i["src"] for i in document.all("img") if i.get("data-role") == "clip"]
    assert clips == ["dense.gif", "sta.gif", "adaspa.gif", "sta-narrow.gif"]


def test_the_data_is_inlined_as_json(tmp_path, results):
    results["methods"][1]["note"] = NASTY
    results["methods"][2]["ssim"] = math.nan
    results["heads"]["sta"]["density"] = np.full((2, 2), 0.25, np.float32)
    data = json.loads(written(tmp_path, results).scripts["results"])
    assert data["methods"][1]["note"] == NASTY
    assert data["methods"][2]["ssim"] is None
    assert data["heads"]["sta"]["density"] == [[0.25, 0.25], [0.25, 0.25]]
    assert data["settings"]["grid"] == [16, 16, 16]


def test_every_text_is_escaped(tmp_path, results):
    plain_tags = len(written(tmp_path, results).tags)
    nasty = copy.deepcopy(results)
    nasty["title"] = NASTY
    nasty["settings"]["dtype"] = nasty["environment"]["commit"] = NASTY
    nasty["heads"]["adaspa"]["mode"][0][0] = NASTY
    nasty["training"]["record"][NASTY] = NASTY
    for row in nasty["methods"]:
        row["label"] = row["note"] = NASTY
    nasty["methods"][1]["phases"] = {NASTY: 3}
    for picture in nasty["pictures"]:
        picture["title"] = picture["caption"] = picture["group"] = NASTY
    document = written(tmp_path, nasty)
    extra = len(nasty["settings"]) - len(results["settings"]) + 1  # rows of the lists
    assert len(document.tags) <= plain_tags + 3 * extra + 2
    assert len(document.all("script")) == 2
    assert "alert" not in document.scripts[None]
    assert NASTY in "".join(document.text)


def test_only_key_and_label_are_needed(tmp_path):
    rows = [{"key": "dense", "label": "Dense"}, {"key": "sta", "label": "STA"}]
    document = written(tmp_path, {"methods": rows})
    check_links(tmp_path, document)
    text = " ".join(document.text)
    assert "no clip was written" in text
    assert "This run drew no pictures." in text
    assert "make demo" in text
    for broken in ("None", "nan", "Traceback"):
        assert broken not in text


@pytest.mark.parametrize(
    "field", ["title", *sorted({*method("sta", 0.3, 20.0)} - {"key", "label"})]
)
def test_any_field_may_be_missing(tmp_path, results, field):
    results.pop(field, None)
    for row in results["methods"]:
        row.pop(field, None)
    check_links(tmp_path, written(tmp_path, results))


@pytest.mark.parametrize("part", ["settings", "environment", "heads", "pictures", "training"])
@pytest.mark.parametrize("value", [None, {}])
def test_any_part_may_be_missing_or_empty(tmp_path, results, part, value):
    results[part] = value
    check_links(tmp_path, written(tmp_path, results))


def test_files_that_are_not_there_are_left_out(tmp_path, results):
    for path in tmp_path.iterdir():
        path.unlink()
    check_links(tmp_path, written(tmp_path, results))


@pytest.mark.parametrize(
    "name", ["../secret.mp4", "/etc/passwd", "https://a.example/b.mp4", "javascript:alert(1)"]
)
def test_file_names_outside_the_folder_are_refused(tmp_path, results, name):
    results["methods"][1]["video"] = name
    with pytest.raises(ValueError, match="must be relative and inside"):
        demo_page.write_page(tmp_path, results)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "is empty; the page needs"),
        ([{"key": "sta"}], "has no 'key' and 'label'"),
        ([{"key": 3, "label": "x"}], "has no 'key' and 'label'"),
        ([{"key": "sta", "label": "x"}] * 2, "are not distinct"),
    ],
)
def test_bad_methods_are_refused(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message):
        demo_page.write_page(tmp_path, {"methods": rows})


def test_the_finding_is_computed_and_honest(results):
    rows = results["methods"]
    assert demo_page.closest(rows)["key"] == "sta"
    header = Document(demo_page.headline("t", rows, {"digit": 3}))
    text = "".join(header.text).replace("\u202f", " ")
    assert "Sta computes 34 % of the block pairs and keeps 74 % of the attention mass" in text
    assert (
        "a sparse step is 1.89× as fast as dense; the whole run is 1.76× as fast as dense." in text
    )
    assert "Adaspa is farthest (25.8 dB)" in text
    assert "as fast as a dense step (1.70× to 2.08×); 1.76× for the whole run" in text
    rows[1]["speedup_run"] = spread(0.5)
    text = "".join(Document(demo_page.headline("t", rows, {})).text)
    assert "the whole run is 0.50× as fast as dense, so here it gains no time." in text


def test_no_number_stands_where_the_rounds_allow_none(tmp_path, results):
    """Each speed-up gets its own number first, so that the page shows it if it shows any."""
    rows = results["methods"]
    rows[1] |= {"speedup_step": spread(1.234, 0.3), "speedup_run": spread(1.456)}
    rows[2] |= {"speedup_step": spread(0.321, 0.4), "step_ms": spread(7654.0, 0.9)}
    rows[0]["step_ms"] = spread(4321.0, 0.9)
    text = " ".join(written(tmp_path, results).text).replace("\u202f", " ")
    for number in ("1.23", "0.32", "7654", "7 654", "4321", "4 321"):
        assert number not in text
    assert "1.46" in text
    assert "whether a sparse step is faster than dense cannot be said from these rounds" in text
    for word in ("unclear", "slower", "unsteady"):
        assert f"{word} : {READING[word]}" in text
    assert f"faster : {READING['faster']}" not in text
    rows[1]["speedup_step"] = spread(1.8, 0.3)
    text = " ".join(written(tmp_path, results).text)
    assert "a sparse step is faster than dense, by how much cannot be said" in text
    assert f"faster : {READING['faster']}" in text


def test_the_bars_hold_steady_times_only(results):
    rows = results["methods"]
    rows[1]["step_ms"] = spread(500.0, 0.5)
    rows[2]["attention_ms"] = spread(200.0, 0.5)
    bars = Document(panels.time_bars(rows))
    text = "".join(bars.text)
    assert "unsteady" in text
    assert "600 ms" in text
    assert "600 ms, attention" not in text
    assert len([a for a in bars.all("span") if a.get("class") == "bar"]) == 3
    for row in rows:
        row["step_ms"] = spread(500.0, 0.5)
    assert "".join(Document(panels.time_bars(rows)).text).count("unsteady") == 4


def test_a_variant_is_never_the_headline_and_never_bold(tmp_path, results):
    results["methods"][3]["psnr_db"] = 99.0
    assert demo_page.closest(results["methods"])["key"] == "sta"
    written(tmp_path, results)
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert '<td class="first best">27.4</td>' in text
    assert '<td class="first">99.0</td>' in text


def test_heat_maps_hold_every_value_and_share_a_scale(tmp_path, results):
    document = written(tmp_path, results)
    cells = [a for a in document.all("td") if "data-cell" in a]
    assert len(cells) == 3 * 2 * 4
    titles = [c["title"].replace("\u202f", " ") for c in cells]
    assert "Layer 1, head 0: Recall 70.0 %" in titles
    assert "Layer 0, head 1: Density 40.0 %, stripe" in titles
    assert "Layer 1, head 1: Density 35.0 %" in titles  # a missing mode is no error
