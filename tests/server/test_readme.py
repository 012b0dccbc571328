"""The commands of the README, run as they stand there."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from gunicorn_server import ROOT, Server, until

from jobmanager.jobs.export.sample import make_sample

BLOCKS = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines()]


def test_what_the_readme_has_a_newcomer_type_works(make_server: Callable[..., Server], tmp_path: Path) -> None:
    server = make_server()
    make_sample(server.data_dir, rows=20_000)
    server.start()
    job_id = ""

    def run(command: str) -> str:
        command = command.replace("localhost:8080", f"127.0.0.1:{server.port}").replace("$ID", job_id)
        return subprocess.run(command, shell=True, check=True, capture_output=True, text=True, cwd=tmp_path).stdout

    assert COMMANDS[0] == "make run"
    for command in COMMANDS[1:]:
        if "artifact" in command:
            until(lambda: json.loads(run("curl -s localhost:8080/details/$ID"))["details"]["status"] == "Completed")
            run(command)
            (file,) = tmp_path.glob("responses_2023-01-01_2023-12-31.csv")
            assert file.read_text(encoding="utf-8").startswith('"id","submitted_at"')
        else:
            answer = json.loads(run(command))
            assert answer["message"] == "Success", (command, answer)
            job_id = answer["jobID"]
            verb = re.search(r"8080/(halt|resume|stop)", command)
            if verb:
                status = {"halt": "Halted", "resume": "Running", "stop": "Stopped"}[verb[1]]
                assert answer["details"]["status"] == status
