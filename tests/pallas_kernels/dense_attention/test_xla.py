from tests.conformance.dense_op_suite import DenseAttentionSuite


class TestXla(DenseAttentionSuite):
    implementation = "xla"
