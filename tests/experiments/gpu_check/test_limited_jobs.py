"""Steps end within their limits and the budget, whatever they do."""

import json
import sys
import time

import pytest

from experiments.gpu_check import limited_jobs
from experiments.gpu_check.limited_jobs import Job, carry_out
from experiments.gpu_check.steps import NEVER_RETURNS


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """As on a GPU machine, in seconds instead of minutes."""
    monkeypatch.setattr(limited_jobs, "LEAST_S", 0.5)
    monkeypatch.setattr(limited_jobs, "MARGIN_S", 0.5)


@pytest.fixture
def paths(tmp_path):
    return {"records": tmp_path / "gpu_check.jsonl", "log": tmp_path / "gpu_check.log"}


def job(name, code, limit_s=20.0, **more):
    def command(limit):
        return [sys.executable, "-S", "-E", "-c", code, *map(str, more.pop("arguments", ()))]

    return Job(name=name, limit_s=limit_s, command=command, **more)


def recorder(name, paths):
    line = json.dumps({"measured": {"part": name}})
    return job(name, f"open({str(paths['records'])!r}, 'a').write({line + chr(10)!r})")


def is_alive(pid):
    """Whether a process runs; a dead one that nobody has waited for does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_what_never_returns_costs_only_itself(paths, capsys):
    hangs = Job(
        name="hangs",
        limit_s=1.5,
        command=lambda _: [sys.executable, "-c", NEVER_RETURNS, str(paths["records"])],
    )
    jobs = [recorder("first", paths), hangs, job("breaks", "1 / 0"), recorder("last", paths)]
    start = time.monotonic()
    results = list(carry_out(jobs, until=start + 60, **paths))
    assert [r.outcome for r in results] == ["right", "cut off", "failed", "right"]
    assert 1.5 <= results[1].seconds < 6
    assert "ZeroDivisionError" in capsys.readouterr().out
    lines = paths["records"].read_text().splitlines()  # half a record is gone, whole ones are not
    assert [json.loads(line)["measured"]["part"] for line in lines] == ["first", "last"]
    assert [len(r.records) for r in results] == [1, 0, 0, 1]
    child = int(results[1].output.split()[1])
    for _ in range(50):  # killed, and gone as soon as the system gets to it
        if not is_alive(child):
            break
        time.sleep(0.1)
    assert not is_alive(child), "a process that the step had started is still running"


def test_records_of_a_step_that_is_cut_off_stay(paths):
    path = str(paths["records"])
    code = f"import time; open({path!r}, 'a').write('{{}}\\n{{}}\\n{{half'); time.sleep(60)"
    (result,) = carry_out([job("slow", code, 1.0)], until=time.monotonic() + 60, **paths)
    assert (result.outcome, result.records) == ("cut off", (b"{}", b"{}"))
    assert paths["records"].read_bytes() == b"{}\n{}\n"


def test_the_budget_is_kept(paths):
    jobs = [job("sleeps", "import time; time.sleep(60)") for _ in range(3)]
    start = time.monotonic()
    results = list(carry_out([*jobs, job("tiny", "", 0.1)], until=start + 2, **paths))
    assert time.monotonic() - start < 4
    assert [r.outcome for r in results] == ["cut off", "no time", "no time", "no time"]
    assert results[0].limit_s <= 1.5


def test_a_step_knows_the_limit_that_holds(paths):
    told = []

    def command(limit):
        told.append(limit)
        return [sys.executable, "-S", "-c", ""]

    until = time.monotonic() + 30
    list(carry_out([Job(name="a", limit_s=9, command=command), Job(name="b", limit_s=99, command=command)],
                   until=until, **paths))  # fmt: skip
    assert told[0] == 9
    assert 20 < told[1] < 30


def test_outcomes(paths, tmp_path):
    outcomes = {0: "right", 3: "wrong", 4: "no GPU"}
    absent = Job(name="x", limit_s=1, command=lambda _: [str(tmp_path / "nothing")])
    jobs = [
        job("wrong", "raise SystemExit(3)", outcomes=outcomes),
        job("other code", "raise SystemExit(7)", outcomes=outcomes),
        job("killed", "import os; os.kill(os.getpid(), 9)", outcomes=outcomes),
        absent,
        job("not here", "", absent="there is no ncu"),
        job("no GPU", "raise SystemExit(4)", outcomes=outcomes),
        job("after", ""),
    ]
    got = list(carry_out(jobs, until=time.monotonic() + 60, last=("no GPU",), **paths))
    assert [r.outcome for r in got] == [
        "wrong", "failed", "failed", "failed", "not here", "no GPU", "not here",
    ]  # fmt: skip
    assert str(tmp_path / "nothing") in paths["log"].read_text()


def test_an_interrupted_run_leaves_nothing_behind(paths):
    """What the first job starts is killed when the run is."""

    def command(limit):
        return [sys.executable, "-S", "-c", "import time; time.sleep(60)"]

    made, jobs = [], [Job(name="a", limit_s=30, command=command)]
    real = limited_jobs.subprocess.Popen

    class Interrupted(real):
        def wait(self, timeout=None):
            if not made:
                made.append(self)
                raise KeyboardInterrupt
            return super().wait(timeout)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limited_jobs.subprocess, "Popen", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            list(carry_out(jobs, until=time.monotonic() + 60, **paths))
    assert made[0].returncode == -9


def test_variables_and_place(paths, monkeypatch):
    code = "import os; print(os.environ['THERE'], os.environ['HERE'], os.path.isdir('experiments'))"
    monkeypatch.setenv("HERE", "kept")
    jobs = [job("a", code, environment={"THERE": "given"})]
    (result,) = carry_out(jobs, until=time.monotonic() + 30, **paths)
    assert result.output == "given kept True\n"
