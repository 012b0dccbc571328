"""How Export reads the databases that it knows.

Each database has a module with its name, and further modules for the parts of the reader: the connection, the table as
the catalog describes it, the columns, and so on. Several readers share errors.py, date_bounds.py and chunk_table.py.
This module imports nothing, so that the child process that reads a SQLite file loads only the SQLite reader.
"""
