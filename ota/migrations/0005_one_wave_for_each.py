"""Rollouts from before there were waves have one; the groups may use what has come since."""

from importlib import import_module

from django.db import migrations

groups = import_module("ota.migrations.0002_groups")


def open_a_wave_for_each(apps, schema_editor):
    """Rollouts from before there were waves have one, opened when they began."""
    alias = schema_editor.connection.alias
    waves = apps.get_model("ota", "Wave").objects.using(alias)
    tasks = apps.get_model("ota", "UpgradeTask").objects.using(alias)
    for rollout in apps.get_model("ota", "Rollout").objects.using(alias).iterator():
        wave = waves.create(rollout=rollout, number=1, gate=100, opened_at=rollout.created_at)
        tasks.filter(rollout=rollout).update(wave=wave)


class Migration(migrations.Migration):
    dependencies = [("ota", "0004_policies")]

    operations = [
        migrations.RunPython(open_a_wave_for_each, migrations.RunPython.noop),
        migrations.RunPython(groups.add, migrations.RunPython.noop),
    ]
