from tests.conformance.dense_op_suite import BlockMassSuite


class TestReference(BlockMassSuite):
    implementation = "reference"
