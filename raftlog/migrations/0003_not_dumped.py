"""Changes no table: what Django is told of raftlog's own models, so that `dumpdata` leaves them out."""

from django.db import migrations, models

OPTIONS = {
    "appliedindex": {"verbose_name_plural": "applied index"},
    "clientsession": {},
    "sessionresult": {},
}


class Migration(migrations.Migration):
    dependencies = [("raftlog", "0002_cluster")]

    operations = [
        operation
        for name, options in OPTIONS.items()
        for operation in (
            migrations.AlterModelManagers(name, [("no_rows", models.Manager()), ("objects", models.Manager())]),
            migrations.AlterModelOptions(name, {"managed": False, "base_manager_name": "no_rows", **options}),
        )
    ]
