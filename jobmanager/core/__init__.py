"""The life of a job as data and decisions. All modules are pure: no I/O, clock or threads. A test enforces this."""
