from django.db import migrations


def make_room(apps, schema_editor):
    """A dock's reports change its task again and again, and no column that an index has.

    With half of each page free PostgreSQL writes the new version beside the old one and leaves all
    indexes of the table alone; in full pages each report is written to all of them.
    """
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute("ALTER TABLE ota_upgradetask SET (fillfactor = 50)")


def take_back(apps, schema_editor):
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute("ALTER TABLE ota_upgradetask RESET (fillfactor)")


class Migration(migrations.Migration):
    dependencies = [("ota", "0012_sealed_and_owned")]

    operations = [migrations.RunPython(make_room, take_back)]
