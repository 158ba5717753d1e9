"""The demo's settings: a stock project on the replicated backend."""

from demo_site.settings import *  # noqa: F403
