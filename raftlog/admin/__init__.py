"""The cluster in Django's admin: Cluster, Members, Log, Elections, Sessions, Consistency; one module for each page.

Pages ask this host's node, and through it or directly the others; so they work on any node, in any process of the host,
and say so where nobody answers. They work without JavaScript; with it they follow the cluster (live.py).
"""

from __future__ import annotations

from django.contrib import admin

from raftlog.admin.site import ClusterAdmin
from raftlog.models import Cluster

admin.site.register(Cluster, ClusterAdmin)
