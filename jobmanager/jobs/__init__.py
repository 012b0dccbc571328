"""The job types that come with the service. They are also examples for authors of job types."""

from jobmanager.jobs.export.job import Export
from jobmanager.jobs.simple import Simple

BUILT_IN = (Export, Simple)
