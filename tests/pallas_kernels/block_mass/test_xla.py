from tests.conformance.dense_op_suite import BlockMassSuite


class TestXla(BlockMassSuite):
    implementation = "xla"
