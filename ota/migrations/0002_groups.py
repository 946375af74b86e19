"""Groups to put people into: those who look, those who upgrade, those who administer."""

from django.contrib.auth.management import create_permissions
from django.db import migrations

OURS = ["fleet", "ota", "mqtt_bridge"]
VIEWERS, OPERATORS, ADMINISTRATORS = "Viewers", "Operators", "Administrators"


def add(apps, schema_editor):
    alias = schema_editor.connection.alias
    _create_permissions(apps, alias)
    permissions = apps.get_model("auth", "Permission").objects.using(alias)
    groups = apps.get_model("auth", "Group").objects.using(alias)
    ours = permissions.filter(content_type__app_label__in=OURS)
    view = ours.filter(codename__startswith="view_")
    upgrade = ours.filter(codename__in=["upgrade_devices", "change_device"])
    users = permissions.filter(content_type__app_label="auth", content_type__model__in=["user", "group"])
    for name, given in [
        (VIEWERS, view),
        (OPERATORS, view | upgrade),
        (ADMINISTRATORS, ours | users),
    ]:
        groups.get_or_create(name=name)[0].permissions.add(*given)


def remove(apps, schema_editor):
    groups = apps.get_model("auth", "Group").objects.using(schema_editor.connection.alias)
    groups.filter(name__in=[VIEWERS, OPERATORS, ADMINISTRATORS]).delete()


def _create_permissions(apps, alias):
    """Django makes them after the last migration, which is too late for us."""
    for label in [*OURS, "auth"]:
        config = apps.get_app_config(label)
        config.models_module = True  # historical applications have none, and then nothing is made
        create_permissions(config, apps=apps, verbosity=0, using=alias)


class Migration(migrations.Migration):
    dependencies = [
        ("ota", "0001_initial"),
        ("fleet", "0001_initial"),
        ("mqtt_bridge", "0001_initial"),
        ("auth", "0012_alter_user_first_name_max_length"),
        ("contenttypes", "0002_remove_content_type_name"),
    ]

    operations = [migrations.RunPython(add, remove)]
