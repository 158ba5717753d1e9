"""The bank."""

from django.apps import AppConfig


class BankConfig(AppConfig):
    name = "demo_site.bank"
    label = "bank"
