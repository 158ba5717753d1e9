from django.db import migrations, models


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("shelf", "0003_fill_note")]
    operations = [
        migrations.AddIndex("Book", models.Index(fields=["hits"], name="book_hits")),
        migrations.AddIndex("Book", models.Index(fields=["note"], name="book_note")),
    ]
