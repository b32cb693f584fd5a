"""The tests, laid out as the package is; a helper is imported as `from tests.layer_table import ...`."""
