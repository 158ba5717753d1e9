"""Flags in the admin: set and unset by those who may change them, and who did what."""

from __future__ import annotations

import json
from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.http import HttpRequest
from django.utils.html import format_html_join

from raftlog.contrib.flags import declared, writing
from raftlog.contrib.flags.models import Flag, FlagChange


class FlagForm(forms.ModelForm):
    """The value is typed as on the command line: true, 3, text as it is, JSON."""

    name = forms.ChoiceField()
    value = forms.CharField(required=False, widget=forms.Textarea(attrs={"rows": 2}))

    class Meta:
        model = Flag
        fields = ["name", "value", "percentage"]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        known = declared.definitions()
        self.fields["name"].choices = [(each.name, f"{each.name} ({each.kind}): {each.help}") for each in known]
        if self.instance.pk:
            value = self.instance.value
            self.fields["name"].choices = [(self.instance.pk, self.instance.pk)]
            self.initial["value"] = value if isinstance(value, str) else json.dumps(value)

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        if "name" not in cleaned:
            return cleaned
        try:
            found = declared.definition(cleaned["name"])
            cleaned["value"] = found.parse(cleaned.get("value") or "")
        except (declared.UnknownFlag, TypeError, ValueError) as error:
            raise ValidationError(str(error)) from error
        percentage = cleaned.get("percentage")
        if percentage is not None and not (0 <= percentage <= 100 and cleaned["value"] is True):
            raise ValidationError("A percentage is from 0 to 100, and goes with the value true of a flag of type bool.")
        return cleaned


@admin.register(Flag)
class FlagAdmin(admin.ModelAdmin):
    form = FlagForm
    list_display = ["name", "value", "percentage", "default", "help"]
    search_fields = ["name"]
    readonly_fields = ["changes"]

    @admin.display
    def default(self, flag: Flag) -> Any:
        return next((each.default for each in declared.definitions() if each.name == flag.pk), "not defined")

    @admin.display
    def help(self, flag: Flag) -> str:
        return next((each.help for each in declared.definitions() if each.name == flag.pk), "")

    @admin.display(description="history")
    def changes(self, flag: Flag) -> str:
        rows = [(each.at, each.by or "–", _shown(each.old), _shown(each.new)) for each in writing.history(flag.pk, 20)]
        return format_html_join("", "{} {}: {} → {}<br>", rows)

    def save_model(self, request: HttpRequest, obj: Flag, form: Any, change: bool) -> None:
        writing.set(obj.name, obj.value, percentage=obj.percentage, by=request.user.get_username())

    def delete_model(self, request: HttpRequest, obj: Flag) -> None:
        writing.unset(obj.name, by=request.user.get_username())

    def delete_queryset(self, request: HttpRequest, queryset: Any) -> None:
        for flag in queryset:
            self.delete_model(request, flag)


@admin.register(FlagChange)
class FlagChangeAdmin(admin.ModelAdmin):
    list_display = ["at", "name", "old", "new", "by"]
    list_filter = ["name"]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


def _shown(content: dict[str, Any] | None) -> str:
    if content is None:
        return "default"
    share = content.get("percentage")
    return json.dumps(content.get("value")) + ("" if share is None else f" for {share:g} %")
