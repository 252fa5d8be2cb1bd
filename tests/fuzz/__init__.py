"""Fuzzing of everything that parses: briefly with hypothesis among the tests, for long with atheris by command."""
