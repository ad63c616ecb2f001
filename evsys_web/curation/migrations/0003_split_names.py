from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("curation", "0002_pairs")]

    operations = [
        migrations.AlterField(model_name="curatedrow", name="split", field=models.CharField(max_length=64)),
    ]
