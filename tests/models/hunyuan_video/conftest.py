import pytest

from tests.models.hunyuan_video.tiny_models import build


@pytest.fixture
def model(request):
    return build(getattr(request, "param", "hunyuan"))
