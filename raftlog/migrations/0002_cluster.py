from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("raftlog", "0001_idempotency_keys")]

    operations = [
        migrations.CreateModel(
            "Cluster",
            [],
            {
                "verbose_name": "cluster",
                "verbose_name_plural": "cluster",
                "permissions": (
                    ("change_members", "Can add, promote, demote, replace and remove members"),
                    ("transfer_leadership", "Can hand leadership over"),
                    ("view_log", "Can see the log's entries with their values"),
                    ("run_digest", "Can compare the rows of all nodes"),
                ),
                "default_permissions": ("view",),
                "proxy": True,
                "indexes": [],
                "constraints": [],
            },
            bases=("raftlog.appliedindex",),
        ),
    ]
