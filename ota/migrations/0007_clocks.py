from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("ota", "0006_each_task_in_a_wave")]

    operations = [
        migrations.CreateModel(
            name="Clock",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("machine", models.CharField(max_length=200, unique=True)),
                ("offset", models.FloatField(help_text="Seconds.")),
                (
                    "stepped_at",
                    models.DateTimeField(help_text="When it was last seen to jump.", null=True),
                ),
            ],
        ),
    ]
