"""What training runs refuse before they write anything."""

import pytest

from experiments.finetune_sta.finetuner import Config as Finetuning
from experiments.train_tiny import Config as Training
from experiments.training import Checkpoints


@pytest.mark.parametrize("config", [Training, Finetuning])
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (dict(learning_rate=float("nan")), "learning_rate=nan must be a finite number above 0"),
        (dict(learning_rate=0.0), r"learning_rate=0\.0 must be a finite number above 0"),
        (dict(warmup=-1), "warmup=-1 must be a number of steps from 0 on"),
        (dict(ema=2.0), r"ema=2\.0 must be in \[0, 1\)"),
        (dict(ema=float("nan")), r"ema=nan must be in \[0, 1\)"),
        (dict(drop_label=-0.5), r"drop_label=-0\.5 must be a share, 0 to 1"),
        (dict(seed=-1), r"seed=-1 must be in 0\.\.4294967295"),
        (dict(save_every=0), "save_every=0 must be at least 1"),
    ],
)
def test_numbers_that_cannot_be_are_refused(config, flags, message):
    with pytest.raises(ValueError, match=message):
        config(**flags)


def test_a_folder_that_cannot_be_is_refused_with_a_remedy(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NotADirectoryError, match=r"file is a file, so .* choose another folder"):
        Checkpoints(tmp_path / "file", {})
