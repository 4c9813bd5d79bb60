"""What has been measured, on one page: Pareto curves, searches, ablations, costs, the demo, the log.

    python -m experiments.report          # seconds; `make report`

Reads the committed records (experiments/results), their pictures and the log, computes the papers'
figures anew, and writes out/report/index.html: one file, pictures inside, readable offline. What was
not measured yet is named with the command that measures it.
"""
