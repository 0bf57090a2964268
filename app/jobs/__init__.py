"""The job engine, and the tasks that run on it."""
