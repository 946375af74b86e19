"""Secrets of webhooks are sealed, and tasks get the organization that their docks have now."""

from django.db import migrations
from django.db.models import CharField, OuterRef, Subquery, TextField, Value
from django.db.models.functions import Cast


def seal(apps, schema_editor):
    for webhook in _webhooks(apps, schema_editor).annotate(raw=Cast("secret", TextField())):
        webhook.secret = webhook.raw
        webhook.save(update_fields=["secret"])


def unseal(apps, schema_editor):
    for webhook in _webhooks(apps, schema_editor):
        plain = Value(webhook.secret, output_field=CharField())
        _webhooks(apps, schema_editor).filter(pk=webhook.pk).update(secret=plain)


def _webhooks(apps, schema_editor):
    return apps.get_model("ota", "Webhook").objects.using(schema_editor.connection.alias)


def own(apps, schema_editor):
    alias = schema_editor.connection.alias
    devices = apps.get_model("fleet", "Device").objects.using(alias)
    owner = devices.filter(pk=OuterRef("gateway")).values("organization")
    tasks = apps.get_model("ota", "UpgradeTask").objects.using(alias)
    tasks.filter(organization=None).update(organization=Subquery(owner))


class Migration(migrations.Migration):
    dependencies = [("ota", "0011_open")]

    operations = [
        migrations.RunPython(seal, unseal),
        migrations.RunPython(own, migrations.RunPython.noop),
    ]
