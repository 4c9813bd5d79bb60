"""Do the figures that papers print follow from arithmetic, and does the library agree?

    python -m experiments.paper_figures                     # all, a few seconds, no GPU
    python -m experiments.paper_figures --system adaspa --json out/figures.json

Every number of STA, AdaSpa and Sparse-vDiT, and many of other systems ("others"), that needs neither
the authors' weights nor their hardware, computed beside printed: by
the library where it computes such a thing (window masks, schedules, head budgets, token counts), by
arithmetic on other printed numbers where it does not. Figures marked "by hand" are in no paper;
they are the papers' rules worked out on a small case.

A printed number stands for half a unit of its last digit to both sides, and so do the printed
numbers that a computation starts from; the tolerance is the sum of both. Verdicts:

    exact      computed, rounded, is what is printed
    rounding   it is not, but lies within the tolerance, or was cut off instead of rounded
    holds      printed is a bound or a range, and computed obeys it
    slip       none of these: an error of print, or a rule other than the one stated

The last answer: all agree but 13 slips, which the table explains.
"""
