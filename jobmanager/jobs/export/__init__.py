"""The job type Export: writes the rows of a dataset between two dates to a file.

Imports nothing here: the process that reads a SQLite file needs only its reader.
"""
