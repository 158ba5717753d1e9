from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            "AppliedIndex",
            [
                ("id", models.SmallIntegerField(primary_key=True, serialize=False)),
                ("schema_version", models.IntegerField()),
                ("cluster_id", models.CharField(max_length=32)),
                ("applied_index", models.BigIntegerField()),
                ("applied_term", models.BigIntegerField()),
                ("log_time", models.BigIntegerField()),
                ("fingerprint", models.BinaryField()),
                ("fingerprint_since", models.BigIntegerField()),
                ("diverged", models.TextField()),
            ],
            {"verbose_name_plural": "applied index", "managed": False},
        ),
        migrations.CreateModel(
            "ClientSession",
            [
                ("session", models.BinaryField(max_length=16, primary_key=True, serialize=False)),
                ("opened_index", models.BigIntegerField()),
                ("last_log_time", models.BigIntegerField()),
                ("acknowledged_below", models.BigIntegerField()),
            ],
            {"managed": False},
        ),
        migrations.CreateModel(
            "SessionResult",
            [
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "session", "sequence", blank=True, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("session", models.BinaryField(max_length=16)),
                ("sequence", models.BigIntegerField()),
                ("status", models.SmallIntegerField()),
                ("index", models.BigIntegerField(db_column="entry_index")),
                ("result", models.BinaryField()),
            ],
            {"managed": False},
        ),
        migrations.CreateModel(
            "IdempotencyKey",
            [
                ("id", models.CharField(max_length=32, primary_key=True, serialize=False)),
                ("scope", models.CharField(max_length=200)),
                ("key", models.CharField(max_length=200)),
                ("digest", models.BinaryField(max_length=16)),
                ("index", models.BigIntegerField(db_column="entry_index")),
                ("log_time", models.BigIntegerField(db_index=True)),
                ("result", models.BinaryField()),
            ],
        ),
    ]
