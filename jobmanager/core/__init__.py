"""The life of a job as data and decisions. All modules are pure (no I/O, no clock, no threads); a test enforces this."""
