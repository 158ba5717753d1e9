"""The bank in Django's admin: what is written here is replicated like everything else."""

from django.contrib import admin
from django.db.models import F

from demo_site.bank.models import Account, Note, Payment, Transfer

BONUS = 100  # cents


class NoteInline(admin.TabularInline):
    model = Note
    extra = 1


@admin.action(description="Pay a bonus of one euro into the selected accounts")
def pay_bonus(modeladmin, request, queryset):
    queryset.update(balance=F("balance") + BONUS, paid_in=F("paid_in") + BONUS)


@admin.register(Account)
class AccountAdmin(admin.ModelAdmin):
    list_display = ["name", "balance", "paid_in"]
    search_fields = ["name"]
    inlines = [NoteInline]
    actions = [pay_bonus]


class ReadOnlyAdmin(admin.ModelAdmin):
    """Money moves by commands and payments only: a row by itself would move none."""

    list_select_related = ["source", "target"]

    def has_add_permission(self, request):
        return False

    def has_change_permission(self, request, obj=None):
        return False

    def has_delete_permission(self, request, obj=None):
        return False


@admin.register(Transfer)
class TransferAdmin(ReadOnlyAdmin):
    list_display = ["number", "reference", "source", "target", "amount", "made_at"]


@admin.register(Payment)
class PaymentAdmin(ReadOnlyAdmin):
    list_display = ["reference", "source", "target", "amount", "made_at"]
