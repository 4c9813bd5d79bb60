"""Whether the tests see mistakes: mutants of the three packages, and coverage by test. Not a part of `make test`.

    pip install coverage pytest-cov                     # in the tests' environment, that it follows their processes
    export COVERAGE_FILE=/tmp/cov/data TEST_TIMES=/tmp/cov/times
    python -m pytest -n 2 --dist worksteal -p tests.mutation.times \
        --cov --cov-config=tests/mutation/coveragerc --cov-context=test --cov-report=
    python -m tests.mutation.covered --label after      # experiments/results/coverage.jsonl
    python -m tests.mutation --label after              # experiments/results/mutants.jsonl
    python -m tests.mutation --label after --control    # the tests that killed pass without a mistake
    python -m tests.mutation --label after --again survived --seconds 120

The data must be of the commit that is tested: tests are found by the lines that they run.
"""
