from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("shelf", "0004_index")]
    operations = [migrations.AlterModelTable("Book", "shelf_volume")]
