"""The job type Export: writes the rows of a dataset between two dates to a file.

Begin with job.py. It uses args.py (the arguments), planning.py and plan.py (the decisions that are made once),
source.py (the open reader), counting.py (the counts before and after) and artifact.py (the file). The readers are in
readers/.
This module imports nothing, so that the child process that reads a SQLite file loads only the SQLite reader.
"""
