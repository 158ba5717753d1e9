"""Settings of a run on the stock backend. The child's environment says where the databases are."""

import os

ENGINE = "django.db.backends.sqlite3"
FOLDER = os.environ["DJANGO_SUITE_FOLDER"]
IN_MEMORY = os.environ.get("DJANGO_SUITE_MEMORY") == "1"


def database(engine, alias):
    if IN_MEMORY:
        return {"ENGINE": engine}
    # The disk's speed is not what is compared.
    options = {"init_command": "PRAGMA synchronous = OFF"}
    name = os.path.join(FOLDER, f"{alias}.sqlite3")
    return {"ENGINE": engine, "NAME": name, "OPTIONS": options, "TEST": {"NAME": f"{name}-test"}}


DATABASES = {alias: database(ENGINE, alias) for alias in ("default", "other")}
SECRET_KEY = "django_tests_secret_key"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = False
TEST_RUNNER = "tests.django_suite.child.RecordingRunner"
