import dataclasses

import pytest

from experiments.full_size import published_clips as full_size
from experiments.full_size.published_clips import AXES, CASES
from experiments.kernel_resources.deviceless import Compiled
from experiments.scaling import __main__ as scaling
from experiments.scaling.prediction import Layout, Work, exchanged_bytes, predict

MODELS = {case.name: case for case in CASES if case.name in AXES}


@pytest.fixture(scope="module")
def wan():
    return Work.of(MODELS["wan2.1-t2v-14b"], "dense")


@pytest.fixture(scope="module")
def hunyuan():
    return Work.of(MODELS["hunyuanvideo"], "dense")


def test_rows_are_spread_before_tokens(wan, hunyuan):
    assert [str(Layout.of(wan, n)) for n in (1, 2, 16)] == [
        "cfg 1 x seq 1",
        "cfg 2 x seq 1",
        "cfg 2 x seq 8",
    ]
    assert str(Layout.of(hunyuan, 8)) == "cfg 1 x seq 8"  # its guidance is an input


def test_exchanged_bytes_are_four_times_a_device_s_share_in_every_layer(wan, hunyuan):
    # 75,600 tokens x 40 heads x 128 numbers of 2 bytes, 40 layers, one of two rows on each device.
    assert exchanged_bytes(wan, Layout(2, 4)) == 4 * 40 * (75_600 // 4) * 40 * 128 * 2
    assert exchanged_bytes(wan, Layout(2, 1)) == 0
    # 16 devices: 40 heads become 48.
    assert exchanged_bytes(wan, Layout(1, 16)) == 4 * 40 * 2 * (75_600 // 16) * 48 * 128 * 2
    # 24 heads on 64 devices: 63 hops of k and v in 60 layers.
    assert exchanged_bytes(hunyuan, Layout(1, 64)) == 60 * 2 * 63 * 1861 * 24 * 128 * 2


def test_one_device_computes_and_exchanges_nothing(wan):
    sta = Work.of(MODELS["wan2.1-t2v-14b"], "sta")
    found = predict(wan, Layout(1, 1))
    assert found.exchange_s == 0
    # 4 x 75,600^2 x 5,120 x 40 layers x 2 rows at 576 TFLOP/s
    assert found.attention_s == pytest.approx(16.26, abs=0.01)
    assert predict(sta, Layout(1, 1)).attention_s < found.attention_s / 2


def test_two_devices_for_two_rows_take_half(wan):
    one, two = (predict(wan, Layout(cfg, 1)).step_s for cfg in (1, 2))
    assert two == one / 2


def test_an_added_head_is_waited_for(hunyuan):
    dense = predict(hunyuan, Layout(1, 16)).attention_s
    assert dense == pytest.approx(predict(hunyuan, Layout(1, 1)).attention_s / 12)


@pytest.fixture
def rows(monkeypatch):
    """What a run would record."""
    rows = []

    class Run:
        def log(self, **measured):
            rows.append(measured)
            return {"measured": measured}

    monkeypatch.setattr(scaling.Run, "start", lambda *_, **__: Run())
    return rows


def test_decoding_is_compiled_for_one_device_and_for_eight(rows, monkeypatch):
    asked = []

    def compiled(listed, *names, axes, **_):
        asked.append((listed.split(":")[1], names, axes))
        memory = dict(argument=3_000_000_000, temp=4_000_000_000, output=10**9, alias=0)
        found = {"collective-permute": dict(count=33, bytes=2 * 10**9)} if axes else {}
        return [Compiled(names[0], memory=memory, collectives=found)]

    monkeypatch.setattr(scaling, "compile_for_h200", compiled)
    name = "wan2.1-t2v-14b decode"
    scaling.main(scaling.Config(only=(name,)))
    assert asked == [
        ("decodes", (name,), {}),
        ("sharded_decodes", (name,), {"cfg": 2, "seq": 4}),
    ]
    assert [(row["part"], row["devices"], row["peak_gb"]) for row in rows] == [
        ("decoding", 1, 8.0),
        ("decoding", 8, 8.0),
    ]
    assert [row["collective_permute_gb"] for row in rows] == [0, 2.0]


def test_decoded_shapes_are_those_of_the_clips():
    spread = {name: z.shape for name, _, (_, z) in full_size.sharded_decodes(None)}
    assert spread == {
        "wan2.1-t2v-14b decode": (1, 16, 21, 90, 160),
        "hunyuanvideo decode": (1, 16, 33, 90, 160),
    }
    alone = {name: z.shape for name, _, (_, z) in full_size.decodes()}
    assert alone == {
        "wan2.1-t2v-14b decode": (1, 16, 3, 90, 160),
        "hunyuanvideo decode": (1, 16, 5, 32, 32),
    }


def test_predictions_are_recorded_with_their_mesh(rows, capsys):
    scaling.main(scaling.Config(only=("hunyuanvideo sta",), predict_only=True))
    assert [row["devices"] for row in rows] == list(scaling.DEVICES)
    assert {row["part"] for row in rows} == {"predicted"}
    assert rows[0]["predicted_speedup"] == 1
    assert len(capsys.readouterr().out.splitlines()) == len(rows)
    with pytest.raises(SystemExit, match=r"only=\['x'\] are no cases; choose from"):
        scaling.main(dataclasses.replace(scaling.Config(), only=("x",)))
