"""Find the file that a completed job made.

A job's result comes from the job's own code, so it is checked: a path outside the job's folder, or a text unfit for a
header, is never used.
This module opens no file.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from jobmanager.core.states import Status
from jobmanager.core.values import Artifact, JobRecord
from jobmanager.errors import NotFound

#: Most characters of each text in a job's result that describes its file.
_LONGEST_HEADER = 1000
#: Longest name of a file: the limit of most file systems.
_LONGEST_FILENAME = 255
_LINE = re.compile(r".+")
_ETAG = re.compile(r"[A-Za-z0-9._-]+")
#: A type and a subtype (RFC 9110 §8.3.1), then any parameters in ASCII.
_MEDIA_TYPE = re.compile(r"[\w!#$&^.+-]+/[\w!#$&^.+-]+\s*(?:;[ -~]*)?", re.ASCII)


def find_artifact(job: JobRecord, data_dir: Path) -> Artifact:
    """Return the file that the job's result names. Raises NotFound if there is none."""
    result = job.result if job.status is Status.COMPLETED and isinstance(job.result, dict) else {}
    file = _line(result, "file", "")
    if not file:
        raise NotFound(f"Job {job.id} has no file; it is {job.status}.")
    folder = (data_dir / "jobs" / job.id).resolve()
    path = (folder / file).resolve()
    # Not Path.is_file, which raises OSError for a name that is too long.
    if not path.is_relative_to(folder) or not os.path.isfile(path):
        raise NotFound(f"The file of job {job.id} is no longer there.")
    return Artifact(
        path=path,
        filename=_line(result, "filename", path.name, longest=_LONGEST_FILENAME),
        media_type=_line(result, "media_type", "application/octet-stream", form=_MEDIA_TYPE),
        etag=_line(result, "sha256", f"{job.id}-{job.attempt}", form=_ETAG),
    )


def _line(
    result: dict[str, Any], name: str, otherwise: str, *, longest: int = _LONGEST_HEADER, form: re.Pattern[str] = _LINE
) -> str:
    """Return the text under *name* in a job's result, or *otherwise* if it is missing or unfit for a path or header."""
    value = result.get(name)
    if not isinstance(value, str) or len(value) > longest or not value.isprintable():
        return otherwise
    return value if form.fullmatch(value) else otherwise
