import pytest

from pallas_kernels import _triton_call
from tests import triton_interpreter
from tests.conformance.dense_op_suite import DenseAttentionSuite


class TestTriton(DenseAttentionSuite):
    implementation = "triton"

    @pytest.fixture(autouse=True)
    def _interpreted(self):
        with _triton_call.use(triton_interpreter.launch):
            yield
