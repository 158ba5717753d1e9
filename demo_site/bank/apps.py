"""The bank."""

from django.apps import AppConfig
from django.contrib.auth.signals import user_logged_in


class BankConfig(AppConfig):
    name = "demo_site.bank"
    label = "bank"

    def ready(self) -> None:
        # A login would write its time to this node's database alone, and so make it differ from the others.
        user_logged_in.disconnect(dispatch_uid="update_last_login")
