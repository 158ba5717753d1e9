"""The bank's page, and Django's admin."""

from django.contrib import admin
from django.templatetags.static import static
from django.urls import include, path
from django.views.generic import RedirectView

from demo_site.bank import views

urlpatterns = [
    path("", views.front, name="front"),
    path("admin/", admin.site.urls),
    path("favicon.ico", RedirectView.as_view(url=static("bank/icon.svg"))),  # of the admin's pages too
    path("raft/", include("raftlog.urls")),
]
