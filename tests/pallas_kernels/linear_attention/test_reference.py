from tests.conformance.linear_op_suite import LinearAttentionSuite


class TestReference(LinearAttentionSuite):
    implementation = "reference"
