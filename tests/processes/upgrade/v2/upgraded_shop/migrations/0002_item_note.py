from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("upgraded_shop", "0001_initial")]
    operations = [
        migrations.AddField("item", "note", models.CharField(max_length=60, default="", db_default="")),
    ]
