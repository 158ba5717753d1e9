"""Settings of a run of Django's tests of cache backends, which use one database."""

from suite_child import settings_django

for name in dir(settings_django):
    if name.isupper():
        globals()[name] = getattr(settings_django, name)

DATABASES = {
    "default": settings_django.DATABASES["default"],
    "other": {"ENGINE": "django.db.backends.sqlite3"},
}
