"""How Export reads the databases that it knows.

One module for each database is named after it, with its parts beside it: the connection, the table as the catalog
describes it, the columns, and so on. Shared by several: errors.py, date_bounds.py and chunk_table.py.
Imports nothing here: the process that reads a SQLite file needs only its reader.
"""
