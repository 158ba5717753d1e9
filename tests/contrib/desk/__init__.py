"""A project of tests: it issues invoices, counts them, and has a flag."""
