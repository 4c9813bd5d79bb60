from tests.conformance.dense_op_suite import DenseAttentionSuite


class TestReference(DenseAttentionSuite):
    implementation = "reference"
