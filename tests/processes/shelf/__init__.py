"""An app for tests on real nodes: a model, its migrations, views, and writers that put load on it."""
