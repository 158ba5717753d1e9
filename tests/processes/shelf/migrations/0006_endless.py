"""A migration that has changed schema and rows and then does not end, so that it can be killed half-way."""

import sys

from django.db import migrations, models

from raftlog.runtime import clock


def wait(apps, schema_editor):
    apps.get_model("shelf", "Book").objects.update(note="half-way")
    sys.stderr.write("half-way\n")
    sys.stderr.flush()
    clock.sleep(600)


class Migration(migrations.Migration):
    dependencies = [("shelf", "0005_rename")]
    operations = [
        migrations.AddField("Book", "lost", models.CharField(max_length=20, null=True)),
        migrations.RunPython(wait, migrations.RunPython.noop),
    ]
