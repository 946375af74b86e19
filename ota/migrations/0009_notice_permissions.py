"""Administrators may set up webhooks; an address can hold a secret, so viewers do not see them."""

from django.contrib.auth.management import create_permissions
from django.db import migrations

ADMINISTRATORS = "Administrators"


def add(apps, schema_editor):
    alias = schema_editor.connection.alias
    _create_permissions(apps, alias)
    permissions = apps.get_model("auth", "Permission").objects.using(alias)
    ours = permissions.filter(
        content_type__app_label="ota", content_type__model__in=["webhook", "webhookdelivery"]
    )
    for group in apps.get_model("auth", "Group").objects.using(alias).filter(name=ADMINISTRATORS):
        group.permissions.add(*ours)


def _create_permissions(apps, alias):
    """Django makes them after the last migration, which is too late for us."""
    config = apps.get_app_config("ota")
    config.models_module = True  # historical applications have none, and then nothing is made
    create_permissions(config, apps=apps, verbosity=0, using=alias)


class Migration(migrations.Migration):
    dependencies = [("ota", "0008_notices")]

    operations = [migrations.RunPython(add, migrations.RunPython.noop)]
