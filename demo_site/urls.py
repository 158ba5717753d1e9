"""The bank's page, and Django's admin."""

from django.contrib import admin
from django.urls import include, path

from demo_site.bank import views

urlpatterns = [
    path("", views.front, name="front"),
    path("admin/", admin.site.urls),
    path("raft/", include("raftlog.urls")),
]
