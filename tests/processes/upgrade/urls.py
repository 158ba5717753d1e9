"""No page."""

urlpatterns = []
