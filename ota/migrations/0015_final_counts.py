"""Rollouts that have ended know how many of their tasks have which status."""

from django.db import migrations
from django.db.models import Count


def count(apps, schema_editor):
    Rollout = apps.get_model("ota", "Rollout")
    for rollout in Rollout.objects.exclude(finished_at=None).filter(final_counts=None).only("pk"):
        tasks = rollout.tasks.order_by().values_list("status").annotate(Count("pk"))
        Rollout.objects.filter(pk=rollout.pk).update(final_counts=dict(tasks))


class Migration(migrations.Migration):
    dependencies = [("ota", "0014_lists")]

    operations = [migrations.RunPython(count, migrations.RunPython.noop)]
