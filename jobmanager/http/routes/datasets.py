"""The datasets that Export can read."""

from __future__ import annotations

from flask import Blueprint
from werkzeug.wrappers import Response

from jobmanager.http.context import manager
from jobmanager.http.openapi import examples
from jobmanager.http.openapi.operations import ResponseDoc, describe
from jobmanager.http.responses import render
from jobmanager.http.schemas import response_models
from jobmanager.jobs.export.job import Export
from jobmanager.registry import type_name

blueprint = Blueprint("datasets", __name__, url_prefix="/datasets")


@blueprint.get("")
@describe(
    name="list_datasets",
    tag="job types",
    text="Names, columns and date columns, enough to build a form. A dataset that cannot be used, or whose database "
    "does not answer within seconds, has an error and no columns. A token that may not see Export gets an empty list.",
    answers={200: ResponseDoc(text="The datasets.", model=response_models.Datasets, examples=examples.DATASETS)},
)
def index() -> Response:
    """List the datasets that Export can read."""
    seen = manager()
    if type_name(Export) not in seen.types:
        return render(response_models.Datasets(datasets=[], formats=[], error=None))
    return render(response_models.list_datasets(seen.settings))
