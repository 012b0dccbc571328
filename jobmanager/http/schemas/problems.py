"""The JSON of errors (RFC 9457) and of health checks, as models for the API docs. http/errors.py makes the errors."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


def leave_out_nulls(schema: dict[str, Any]) -> None:
    """Change the schema of a model in place: a field that is None by default may be missing, but may not be null."""
    for name, described in schema["properties"].items():
        if described.get("default", "") is None:
            del described["default"]
            kinds = [kind for kind in described.pop("anyOf", []) if kind != {"type": "null"}]
            schema["properties"][name] = described | (kinds[0] if kinds else {})


class Fault(BaseModel):
    """One fault of a request."""

    model_config = ConfigDict(json_schema_extra=leave_out_nulls)

    detail: str = Field(description="What is wrong with the field.")
    pointer: str | None = Field(None, description="The field of the body, as a JSON pointer (RFC 6901) in a fragment.")
    parameter: str | None = Field(None, description="The parameter of the query, or the header.")


class Problem(BaseModel):
    """An error (RFC 9457); nothing was changed."""

    model_config = ConfigDict(json_schema_extra=leave_out_nulls)

    type: str = Field(description="The URI of the kind of problem; the same in all versions.")
    title: str = Field(description="The name of the HTTP status.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What is wrong, in a sentence.")
    field: str | None = Field(None, description="The first wrong field, as a dotted path.")
    errors: list[Fault] | None = Field(None, description="Each wrong field.")
    job_status: str | None = Field(None, description="The status of the job, if it does not allow the action.")
    allowed: list[str] | None = Field(None, description="The actions that are allowed instead.")


class Health(BaseModel):
    """The health of the service."""

    status: str = Field(description="Always ok.")
