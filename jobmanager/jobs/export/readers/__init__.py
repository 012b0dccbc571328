"""How Export reads the databases that it knows.

One module for each database is named after it, with its parts beside it: the connection, the table as the catalog
describes it, the columns, and so on. Several readers share errors.py, date_bounds.py and chunk_table.py.
This module imports nothing: the child process that reads a SQLite file loads only its reader.
"""
