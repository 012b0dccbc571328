"""Each command works, prints text or JSON, and fails with one sentence."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from jobmanager import Client
from jobmanager.cli import main
from jobmanager.cli.output import Printer
from jobmanager.errors import UnknownJob

Call = Callable[..., Any]


@pytest.fixture
def client(service: Any) -> Any:
    with Client(service.url) as client:
        yield client


def test_submit_sets_every_field_of_a_job(call: Call, client: Client) -> None:
    result = call(
        *("submit", "Steps", "--arg", "n=7", "--arg", "tag=text", "--priority", "3", "--max-attempts", "2"),
        *("--timeout", "60", "--label", "for=may", "--run-at", "2999-01-01T00:00:00Z", "--key", "k"),
    )
    again = call(
        *("submit", "Steps", "--arg", "n=7", "--arg", "tag=text", "--priority", "3", "--max-attempts", "2"),
        *("--timeout", "60", "--label", "for=may", "--run-at", "2999-01-01T00:00:00Z", "--key", "k"),
    )

    assert (result.code, result.err) == (0, "")
    assert again.out == result.out
    job = client.get(result.out.strip())
    assert job.args == {"n": 7, "tag": "text"}
    assert (job.priority, job.max_attempts, job.timeout_seconds, job.labels) == (3, 2, 60, {"for": "may"})
    assert job.run_at == datetime(2999, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("how", ["--wait", "--follow"])
@pytest.mark.parametrize(("type_name", "code", "text"), [("File", 0, "completed"), ("Fails", 3, "as it should")])
def test_the_exit_code_gives_the_end_of_the_job(call: Call, how: str, type_name: str, code: int, text: str) -> None:
    result = call("submit", type_name, *(["--arg", "size=64"] if type_name == "File" else []), how)

    assert result.code == code, result
    assert text in result.out


def test_follow_prints_every_sign_of_a_job_as_json(call: Call) -> None:
    result = call("submit", "Steps", "--arg", "n=100", "--follow", "--json")

    events = [line["event"] for line in result.json]
    assert events[-1] == "job"
    assert result.json[-1]["data"]["status"] == "completed"
    assert events.count("log") == 100
    assert {"change", "progress"} < set(events)


def test_list_prints_jobs_as_a_table_or_as_json(call: Call, client: Client) -> None:
    late = datetime.now(UTC) + timedelta(days=1)
    first = client.submit("Steps", run_at=late, labels={"a": "b"})
    second = client.submit("File", {"size": 1}, run_at=late, labels={"evil": "\x1b[31m[red]"})

    listed = call("list").out.splitlines()
    assert [line.split()[:3] for line in listed[1:]] == [
        [second.id, "File", "submitted"],
        [first.id, "Steps", "submitted"],
    ]
    assert "\x1b" not in "".join(listed)
    assert "evil=\\x1b[31m[red]" in listed[1]
    assert [job["id"] for job in call("list", "--json").json] == [second.id, first.id]
    for chosen in (["--type", "Steps"], ["--label", "a=b"], ["--status", "submitted", "-q", "Steps"]):
        assert [job["id"] for job in call("list", "--json", *chosen).json] == [first.id]
    assert call("list", "--json", "--limit", "1").json[0]["id"] == second.id
    assert call("list", "--json", "--after", "2999-01-01").out == ""


def test_show_prints_a_job_and_its_changes(call: Call, client: Client) -> None:
    job = client.submit("Steps", {"n": 2}).wait(10)

    result = call("show", job.id).out

    assert all(
        text in result for text in (job.id, "completed", '{"n": 2}', "2/2 100%", "submitted → running", "engine")
    )
    (shown,) = call("show", job.id, "--json").json
    assert shown["result"] == {"n": 2}


def test_halt_resume_and_stop_accept_several_ids(call: Call, client: Client) -> None:
    jobs = [client.submit("Steps").wait(statuses=["running"]) for _ in range(2)]
    ids = [job.id for job in jobs]

    for verb, status in (("halt", "halted"), ("resume", "running"), ("stop", "stopped")):
        result = call(verb, *ids, "--reason", f"to {verb}", "--json")
        assert result.code == 0
        assert [(job["id"], job["status"]) for job in result.json] == [(job_id, status) for job_id in ids]
        assert f"to {verb}" in [change.reason for change in jobs[0].changes()]

    refused = call("resume", ids[0], "nobody", ids[1])
    assert refused.code == 1
    assert [line.split(": ")[1] for line in refused.err.splitlines()] == [ids[0], "nobody", ids[1]]


def test_halt_resume_and_stop_accept_a_filter(call: Call, client: Client) -> None:
    steps = [client.submit("Steps").wait(statuses=["running"]).id for _ in range(2)]

    result = call("halt", "--all", "--type", "Steps", "--json")
    assert sorted(result.json[0]["changed_ids"]) == steps
    assert "0 of 0 jobs changed." in call("stop", "--all", "--type", "Export").out
    for job_id in steps:
        client.wait(job_id, 10)
    assert "2 of 2 jobs changed." in call("resume", "--all", "--status", "halted", "--spread", "60").out
    assert "2 of 2 jobs changed." in call("stop", "--all").out


def test_log_prints_the_log_of_a_job(call: Call, client: Client) -> None:
    job = client.submit("Steps", {"n": 3}).wait(10)

    assert [line.split()[-2:] for line in call("log", job.id).out.splitlines()] == [["step", str(n)] for n in range(3)]
    assert [line["message"] for line in call("log", job.id, "--json", "--after", "2").json] == ["step 2"]


def test_download_uses_the_name_of_the_file_or_another_one(
    call: Call, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    job = client.submit("File", {"size": 64_000}).wait(10)

    assert call("download", job.id).out == "data.bin (64,000 bytes)\n"
    again = call("download", job.id)
    assert (again.code, again.err) == (1, "Error: data.bin already exists. To replace it, give its path.\n")
    assert call("download", job.id, "-o", "data.bin", "--json").json == [{"path": "data.bin", "bytes": 64_000}]
    assert hashlib.sha256(Path("data.bin").read_bytes()).hexdigest() == job.result["sha256"]
    nowhere = call("download", job.id, "-o", "no/where")
    assert nowhere.code == 1
    assert "No such file or directory" in nowhere.err


def test_types_lists_job_types_or_describes_one(call: Call) -> None:
    assert "[n] [seconds]" in call("types").out
    assert '"size"' in call("types", "File").out
    assert call("types", "File", "--json").json[0]["type"] == "File"
    assert call("types", "Nothing").err == "Error: There is no job type 'Nothing'.\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["halt"],
        ["stop", "id", "--all"],
        ["stop", "id", "--type", "Steps"],
        ["resume", "id", "--spread", "5"],
        ["submit"],
        ["submit", "Steps", "--arg", "n"],
        ["submit", "Steps", "--label", "=x"],
        ["submit", "Steps", "--label", "a=b", "--label", "a=c"],
        ["stop", "--label", "a=b", "--label", "a=c"],
        ["submit", "Steps", "--run-at", "soon"],
        ["submit", "Steps", "--wait", "--follow"],
        ["list", "--status", "gone"],
        ["prune"],
        ["prune", "--days", "1", "--before", "2020-01-01"],
        ["nothing"],
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_with_code_2(arguments: list[str]) -> None:
    result = CliRunner().invoke(main, arguments)

    assert result.exit_code == 2
    assert "Error: " in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["show", "nobody"], "There is no job 'nobody'."),
        (["follow", "nobody"], "There is no job 'nobody'."),
        (["log", "nobody"], "There is no job 'nobody'."),
        (["download", "nobody"], "There is no job 'nobody'."),
        (["submit", "Steps", "--arg", "n=x"], "n: Input should be a valid integer"),
        (["list", "--url", "nonsense"], "Invalid URL 'nonsense'. Use one such as http://127.0.0.1:8080."),
    ],
)
def test_an_error_is_one_sentence(call: Call, arguments: list[str], sentence: str) -> None:
    result = call(*arguments)

    assert result.code == 1
    assert result.out == ""
    assert sentence in result.err
    assert len(result.err.splitlines()) == 1


def test_prune_removes_finished_jobs_from_the_store(
    service: Any, call: Call, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [client.submit("Steps", {"n": 1}).wait(10) for _ in range(3)]
    monkeypatch.setenv("JOBMANAGER_DATA_DIR", str(service.settings.data_dir))

    assert call("prune", "--days", "1", "--json").json == [{"removed": 0}]
    assert call("prune", "--keep", "1").out == "Removed 2 jobs.\n"
    with pytest.raises(UnknownJob):
        jobs[0].refresh()
    assert call("prune", "--before", (datetime.now(UTC) + timedelta(minutes=1)).isoformat()).out == "Removed 1 jobs.\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_for_each_shell(shell: str) -> None:
    assert "_JOBMANAGER_COMPLETE" in CliRunner().invoke(main, ["completion", shell]).stdout


def test_a_shell_completes_job_types_and_ids(service: Any, client: Client) -> None:
    job = client.submit("Steps")

    def complete(words: str, url: str) -> str:
        result = {
            "_JOBMANAGER_COMPLETE": "bash_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": "2",
            "JOBMANAGER_URL": url,
        }
        return CliRunner().invoke(main, [], env=result, prog_name="jobmanager").stdout

    assert "Steps" in complete("jobmanager submit St", service.url)
    assert job.id in complete(f"jobmanager halt {job.id[:4]}", service.url)
    assert complete("jobmanager submit St", "http://127.0.0.1:9").strip() == ""


def test_printed_text_cannot_control_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    Printer(as_json=False).print_text("\x1b]0;owned\x07 [bold]x[/bold] \u202e")

    assert capsys.readouterr().out == "\\x1b]0;owned\\x07 [bold]x[/bold] \\u202e\n"


def test_the_command_prints_its_version(call: Any) -> None:
    result = call("--version")

    assert (result.code, result.out) == (0, f"jobmanager {version('jobmanager')}\n")
