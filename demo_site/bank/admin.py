"""The bank in Django's admin, to look at. Rows change by commands only, so that they change on every node."""

from django.contrib import admin

from demo_site.bank.models import Account, Transfer


class ReadOnlyAdmin(admin.ModelAdmin):
    def has_add_permission(self, request):
        return False

    def has_change_permission(self, request, obj=None):
        return False

    def has_delete_permission(self, request, obj=None):
        return False


@admin.register(Account)
class AccountAdmin(ReadOnlyAdmin):
    list_display = ["name", "balance", "paid_in"]


@admin.register(Transfer)
class TransferAdmin(ReadOnlyAdmin):
    list_display = ["number", "reference", "source", "target", "amount", "made_at"]
    list_select_related = ["source", "target"]
