"""Indexes of the console's lists, each built within seconds also over a million tasks.

Not concurrently: what is one transaction leaves no half index behind, and the broker keeps the messages meanwhile.
"""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('fleet', '0001_initial'),
        ('ota', '0013_room_in_pages'),
    ]

    operations = [
        migrations.RemoveIndex(
            model_name='upgradetask',
            name='task_status_due',
        ),
        migrations.AddField(
            model_name='rollout',
            name='final_counts',
            field=models.JSONField(editable=False, null=True),
        ),
        migrations.AlterField(
            model_name='upgradetarget',
            name='package',
            field=models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='targets', to='ota.firmwarepackage'),
        ),
        migrations.AddIndex(
            model_name='upgradetarget',
            index=models.Index(fields=['package', 'task'], name='target_package'),
        ),
        migrations.AddIndex(
            model_name='upgradetask',
            index=models.Index(fields=['status', 'id'], name='task_status'),
        ),
        migrations.AddIndex(
            model_name='upgradetask',
            index=models.Index(condition=models.Q(('finished_at__isnull', False)), fields=['status', 'finished_at'], name='task_ended'),
        ),
        migrations.AddIndex(
            model_name='upgradetask',
            index=models.Index(fields=['status', 'resolved_at'], name='task_to_settle'),
        ),
    ]
