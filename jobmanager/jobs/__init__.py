"""The job types that come with the service, which are also the examples an author copies."""

from jobmanager.jobs.export.job import Export
from jobmanager.jobs.simple import Simple

BUILT_IN = (Export, Simple)
