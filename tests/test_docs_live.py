"""Every command and program of docs/live.md runs as it stands there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.following import live_server, place
from tests.patience import PATIENCE_S
from tests.serving import bearer

PAGE = (Path(__file__).parent.parent / "docs" / "live.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```(sh|python|js)\n(.*?)```", PAGE, re.DOTALL)
RUNS = {
    "python": [sys.executable, "-c"],
    "js": ["node", "--experimental-websocket", "-e"],
    "sh": ["sh", "-c"],
}


def test_the_page_runs(database: str, tmp_path: Path) -> None:
    assert [language for language, _ in EXAMPLES] == ["sh", "python", "js", "python"]
    with live_server(database, tmp_path) as (served, _), served.client() as client:
        place(client, "O-1")
        env = os.environ | {"CHAINLYTICS_URL": served.url, "CHAINLYTICS_TOKEN": bearer()}
        for language, program in EXAMPLES:
            command = [*RUNS[language], program]
            if shutil.which(command[0]) is None:  # curl and Node are not ours to bring
                continue
            if language == "sh":  # it goes on until somebody ends it
                command[-1] = program.replace("curl -N", "curl -N --max-time 2 -s")
            ran = subprocess.run(
                command, env=env, capture_output=True, text=True, timeout=PATIENCE_S
            )
            assert "OrderPlaced" in ran.stdout or "1 O-1" in ran.stdout, (program, ran)
            if language == "js":
                assert "closed 1005" in ran.stdout or "closed 1000" in ran.stdout, ran
