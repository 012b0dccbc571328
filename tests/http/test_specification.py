"""The service does what its own specification says, whatever is sent to it in whatever order: Schemathesis tries.

Cases are derived from /apispec.json: examples, the bounds of every field, random values that fit the schemas and values
that do not, and chains of requests along the links (submit → look → halt → resume → stop).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.config import SchemathesisConfig

from jobmanager import JobManager, Settings
from jobmanager.core.states import FINAL, Status
from jobmanager.core.values import Selection
from jobmanager.http import create_app
from jobmanager.jobs.export.sample import make_sample
from jobmanager.registry import Registry

pytestmark = pytest.mark.slow

#: What no schema can say, and so a valid request may be answered with: a date that is before another, a dataset or a
#: cursor that is not there, an If-Match that does not match.
BEYOND_SCHEMAS = ["2xx", "304", "400", "404", "409", "412", "416", "422"]
#: Routes of their own beside /jobs/{job_id}.
NO_IDS = ("batch", "halt", "resume", "stop")
TRIES = settings(
    max_examples=6,
    derandomize=True,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def manager_of_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobManager]:
    """The manager of a service with a small dataset to export."""
    folder = tmp_path_factory.mktemp("specification")
    make_sample(folder, 500)
    with JobManager(Settings(data_dir=folder, slots=2, insecure=True), Registry()) as manager:
        yield manager


@pytest.fixture(scope="module")
def schema(manager_of_all: JobManager) -> Any:
    return schema_of(manager_of_all)


def schema_of(manager: JobManager) -> Any:
    # Schemathesis gives no client address, so that the manager has to have Settings(insecure=True).
    checks = {"positive_data_acceptance": {"expected-statuses": BEYOND_SCHEMAS}}
    config = SchemathesisConfig.from_dict({"checks": checks})
    whole = schemathesis.openapi.from_wsgi("/apispec.json", create_app(manager), config=config)
    return whole.exclude(path_regex="/events$")


@pytest.fixture(autouse=True)
def _all_jobs_end(manager_of_all: JobManager, until: Any) -> Iterator[None]:
    yield
    open_ones = Selection(statuses=frozenset(Status) - FINAL)
    manager_of_all.stop_all(open_ones)  # not by force, which may strike where a library closes what it opened
    until(lambda: not manager_of_all.find(open_ones).jobs)


def operations() -> list[tuple[str, str]]:
    """Return the path and the method of every operation that is specified."""
    client = create_app(JobManager(Settings(), Registry())).test_client()
    paths = client.get("/apispec.json").json["paths"]
    # A stream has no end that Schemathesis would wait for.
    return sorted((path, method) for path in paths if not path.endswith("/events") for method in paths[path])


@pytest.mark.parametrize("mode", GenerationMode)
@pytest.mark.parametrize(("path", "method"), operations())
def test_every_answer_is_as_specified(schema: Any, path: str, method: str, mode: GenerationMode) -> None:
    @TRIES
    @given(data=st.data())
    def check(data: Any) -> None:
        case = data.draw(schema[path][method.upper()].as_strategy(generation_mode=mode))
        assume((case.path_parameters or {}).get("job_id") not in NO_IDS)
        case.call_and_validate()

    try:
        check()
    except Unsatisfiable:
        assert mode is GenerationMode.NEGATIVE  # where nothing is sent, nothing can be wrong


def test_every_chain_of_requests_along_the_links_is_answered_as_specified(tmp_path: Path) -> None:
    # Of jobs that wait for a slot for ever: what comes next must not depend on how fast a thread is.
    with JobManager(Settings(data_dir=tmp_path, slots=0, insecure=True), Registry()) as manager:
        schema_of(manager).as_state_machine().run(settings=settings(TRIES, max_examples=12, stateful_step_count=7))
