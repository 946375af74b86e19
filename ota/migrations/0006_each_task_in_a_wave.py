from django.db import migrations, models
from django.db.models.deletion import PROTECT


class Migration(migrations.Migration):
    # Apart from the rows' change: PostgreSQL alters no table that has been written to just now.
    dependencies = [("ota", "0005_one_wave_for_each")]

    operations = [
        migrations.AlterField(
            model_name="upgradetask",
            name="wave",
            field=models.ForeignKey(on_delete=PROTECT, related_name="tasks", to="ota.wave"),
        ),
    ]
