"""The examples, by the command that each one's page gives."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.docs
ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
ENVIRONMENT = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
METRICS = {"classification": "accuracy", "regression": "pearson", "text_pairs": "pearson"}


@pytest.mark.parametrize(("example", "metric"), METRICS.items())
def test_it_comes_to_what_its_page_says(example, metric, tmp_path):
    page = (ROOT / "examples" / example / "README.md").read_text()
    command = re.findall(r"^python data\.py && rolora run .+$", page, flags=re.MULTILINE)
    shutil.copytree(
        ROOT / "examples" / example,
        tmp_path / example,
        ignore=shutil.ignore_patterns("data", "runs"),
    )
    done = subprocess.run(
        command[0],
        shell=True,
        cwd=tmp_path / example,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = (tmp_path / example / "runs").iterdir()
    test = json.loads((run / "summary.json").read_text())["final"]["test"]
    (said,) = re.findall(rf"^test {metric}.*?(-?[\d.]+)", page, flags=re.MULTILINE | re.IGNORECASE)
    percent = 100 if metric == "accuracy" else 1
    assert percent * test[metric] == pytest.approx(float(said), abs=0.03 * percent), done.stdout
