"""Where tasks are kept: SQLite, and the result files beside it."""
