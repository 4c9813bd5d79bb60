from experiments.loss_curve import draw_losses, whole_curve


def test_a_curve_goes_on_from_the_run_before():
    first = dict(loss=[[50, 3.0], [100, 2.0]], started_from=None)
    second = dict(loss=[[50, 1.0]], started_from=first)
    assert whole_curve(second) == [(50, 3.0), (100, 2.0), (150, 1.0)]
    assert whole_curve({}) == []


def test_the_picture_is_written(tmp_path):
    draw_losses([(50, 3.0), (100, 2.0)], tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes()[:4] == b"\x89PNG"
