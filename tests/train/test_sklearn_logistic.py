"""scikit-learn's own tests of LogisticRegression and LogisticRegressionCV, run on LinearProbe."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from sklearn_not_ours import NOT_OURS

FACTORIES = Path(__file__).parents[1] / "factories"


def test_all_of_scikit_learns_tests_pass_but_those_listed(tmp_path: Path) -> None:
    outcomes = tmp_path / "outcomes.json"
    paths = [str(FACTORIES), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "SKLEARN_OUTCOMES": str(outcomes),
        "SKLEARN_TESTS_GLOBAL_RANDOM_SEED": "42",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", str(tmp_path)]
    command += [
        "-p",
        "no:cacheprovider",
        "-p",
        "sklearn_stand_in",
        "--tb=no",
        "-k",
        "not array_api",
    ]
    command += ["--pyargs", "sklearn.linear_model.tests.test_logistic"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    if not outcomes.is_file():
        pytest.fail(done.stdout[-2000:] + done.stderr[-2000:])
    ended: dict[str, str] = json.loads(outcomes.read_text())
    listed = {test for test in ended if test in NOT_OURS or test.partition("[")[0] in NOT_OURS}
    known = {name for test in listed for name in (test, test.partition("[")[0])}

    assert {t: why for t, why in ended.items() if t not in listed and why != "passed"} == {}
    assert {test for test in listed if ended[test] == "passed"} == set()
    assert set(NOT_OURS) - known == set()
    assert len(ended) - len(listed) >= 75
