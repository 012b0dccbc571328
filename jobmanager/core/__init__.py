"""The life of a job as data and decisions. Pure: no I/O, no clock, no threads; a test enforces it."""
