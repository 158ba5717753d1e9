"""Filters of the admin's pages."""
