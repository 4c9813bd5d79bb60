from experiments.loss_curve import draw_losses, draw_recovery, whole_curve


def test_a_curve_goes_on_from_the_run_before():
    first = dict(loss=[[50, 3.0], [100, 2.0]], started_from=None)
    second = dict(loss=[[50, 1.0]], started_from=first)
    assert whole_curve(second) == [(50, 3.0), (100, 2.0), (150, 1.0)]
    assert whole_curve({}) == []


def test_the_picture_is_written(tmp_path):
    draw_losses([(50, 3.0), (100, 2.0)], tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes()[:4] == b"\x89PNG"


def test_the_recovery_is_drawn_from_the_records(tmp_path):
    rows = [
        dict(model="student", step=step, density=0.05, held_out_data_loss=[0.2, 0.1 * step],
             psnr_db=[10.0 + step, 12.0], ssim=[0.5, 0.6])
        for step in (2, 0)
    ]  # fmt: skip
    rows.append(dict(model="dense", step=0, density=1.0, held_out_data_loss=[0.1, 0.1]))
    rows.append(dict(model="black", step=0, psnr_db=[11.0, 12.0], ssim=[0.5, 0.7]))
    draw_recovery(rows, tmp_path / "recovery.png")
    assert (tmp_path / "recovery.png").read_bytes()[:4] == b"\x89PNG"
