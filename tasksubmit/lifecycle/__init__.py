"""The rules of a task's life (wire.md, sections 4 and 5), as data and plain functions."""
