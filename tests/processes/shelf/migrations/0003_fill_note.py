from django.db import migrations


def fill(apps, schema_editor):
    for book in apps.get_model("shelf", "Book").objects.all():
        book.note = f"was {book.hits}"
        book.save(update_fields=["note"])


class Migration(migrations.Migration):
    dependencies = [("shelf", "0002_book_note")]
    operations = [migrations.RunPython(fill, migrations.RunPython.noop)]
