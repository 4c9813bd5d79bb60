import json

import pytest

from models.schedulers import load_scheduler, save_scheduler, scheduler_from_json
from models.schedulers.files import REGISTRY
from tests.models.schedulers import recorded

RECORDED = [name for name, document in recorded.DOCUMENTS.items() if "class" in document]


def test_every_scheduler_is_written_and_read_back(tmp_path):
    for name in RECORDED:
        scheduler = recorded.load(name)
        save_scheduler(scheduler, tmp_path / name)
        assert load_scheduler(tmp_path / name) == scheduler
        save_scheduler(scheduler, tmp_path / "pipelines" / name / "scheduler")
        assert load_scheduler(tmp_path / "pipelines" / name) == scheduler
        assert hash(scheduler) == hash(recorded.load(name))
    assert {type(recorded.load(name)) for name in RECORDED} == set(REGISTRY.values())


def test_a_file_has_the_fields_of_diffusers(tmp_path):
    save_scheduler(recorded.load("unipc_wan480"), tmp_path)
    document = json.loads((tmp_path / "scheduler_config.json").read_text())
    assert document["_class_name"] == "UniPCMultistepScheduler"
    assert document["flow_shift"] == 3.0
    assert document["disable_corrector"] == []


def test_files_are_not_overwritten(tmp_path):
    save_scheduler(recorded.load("ddim_cog2b"), tmp_path)
    with pytest.raises(FileExistsError, match="is not overwritten; remove it"):
        save_scheduler(recorded.load("ddim_cog5b"), tmp_path)


def test_a_field_we_do_not_have_gives_a_warning():
    document = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 5.0, "new_field": 1}
    with pytest.warns(UserWarning, match="new_field"):
        assert scheduler_from_json(document).config.shift == 5


def test_what_cannot_be_loaded_is_refused(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"no scheduler_config\.json at .*give a pipeline's"
    ):
        load_scheduler(tmp_path)
    path = tmp_path / "scheduler_config.json"
    path.write_text('{"_class_name": "EulerDiscreteScheduler"}')
    with pytest.raises(ValueError, match=r"scheduler_config\.json: _class_name='EulerDiscreteSch"):
        load_scheduler(tmp_path)
    path.write_text("{}")
    with pytest.raises(ValueError, match="_class_name=None must be one of FlowMatchEuler"):
        load_scheduler(tmp_path)
    path.write_text('{"_class_name": "UniPCMultistepScheduler", "use_karras_sigmas": true}')
    with pytest.raises(ValueError, match=r"scheduler_config\.json: .*is not implemented; it must"):
        load_scheduler(tmp_path)
    path.write_text("not JSON")
    with pytest.raises(ValueError, match=r"scheduler_config\.json is not JSON"):
        load_scheduler(tmp_path)
    for value in (None, "3.0", [3.0], True, float("nan")):
        document = {"_class_name": "UniPCMultistepScheduler", "flow_shift": value}
        path.write_text(json.dumps(document))
        with pytest.raises(ValueError, match=r"scheduler_config\.json: .* flow_shift=.* must be a"):
            load_scheduler(tmp_path)
