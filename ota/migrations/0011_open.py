import django.db.models.deletion
import ota.models.notices
import ota.models.sealed
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('fleet', '0001_initial'),
        ('ota', '0010_history'),
    ]

    operations = [
        migrations.AddField(
            model_name='organizationpolicy',
            name='consistency_at',
            field=models.DateTimeField(editable=False, null=True),
        ),
        migrations.AddField(
            model_name='organizationpolicy',
            name='keeps_open',
            field=models.BooleanField(default=False, help_text='Devices that come to match the chosen list later join the last wave, until the deadline or until somebody closes the rollout.', verbose_name='keep open'),
        ),
        migrations.AddField(
            model_name='organizationpolicy',
            name='starts_consistency',
            field=models.BooleanField(default=False, help_text='The system starts consistency upgrades by itself, inside the hours of this policy.', verbose_name='automatic consistency'),
        ),
        migrations.AddField(
            model_name='rollout',
            name='is_automatic',
            field=models.BooleanField(default=False, help_text='The system has started it.'),
        ),
        migrations.AddField(
            model_name='rollout',
            name='keeps_open',
            field=models.BooleanField(default=False, help_text='Devices that come to match the chosen list later join the last wave, until the deadline or until somebody closes the rollout.', verbose_name='keep open'),
        ),
        migrations.AddField(
            model_name='upgradetask',
            name='organization',
            field=models.ForeignKey(db_index=False, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to='fleet.organization'),
        ),
        migrations.AddField(
            model_name='webhookdelivery',
            name='text',
            field=models.CharField(blank=True, max_length=500),
        ),
        migrations.AlterField(
            model_name='firmwarepackage',
            name='notes',
            field=models.TextField(blank=True, help_text='Markdown, at most 50000 characters.', verbose_name='release notes'),
        ),
        migrations.AlterField(
            model_name='organizationpolicy',
            name='approval_above',
            field=models.PositiveIntegerField(blank=True, help_text='A rollout for more docks than this needs a second person, and each that stays open. Empty: none does.', null=True, verbose_name='approval above'),
        ),
        migrations.AlterField(
            model_name='rolloutevent',
            name='kind',
            field=models.CharField(choices=[('started', 'Started'), ('needs_approval', 'Needs approval'), ('approved', 'Approved'), ('denied', 'Denied'), ('paused', 'Paused'), ('stopped', 'Paused by itself'), ('resumed', 'Resumed'), ('canceled', 'Canceled'), ('wave_opened', 'Wave opened'), ('wave_waiting', 'Wave waits for a click'), ('joined', 'Joined'), ('closed', 'Closed'), ('retried', 'Retried'), ('dismissed', 'Dismissed'), ('changed', 'Changed'), ('deadline', 'Deadline passed'), ('finished', 'Finished')], max_length=16),
        ),
        migrations.AlterField(
            model_name='webhook',
            name='secret',
            field=ota.models.sealed.SealedField(default=ota.models.notices.new_secret, editable=False, max_length=300),
        ),
        migrations.CreateModel(
            name='Criterion',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('kind', models.CharField(blank=True, max_length=10)),
                ('need', models.CharField(blank=True, max_length=12)),
                ('with_aircraft', models.BooleanField(default=False, help_text='Also those of fitting docks.')),
                ('model', models.ForeignKey(null=True, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='fleet.devicemodel')),
                ('organization', models.ForeignKey(null=True, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='fleet.organization')),
                ('rollout', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='criteria', to='ota.rollout')),
                ('site', models.ForeignKey(null=True, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='fleet.site')),
            ],
            options={
                'ordering': ['pk'],
            },
        ),
        migrations.CreateModel(
            name='Offer',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('version', models.CharField(max_length=64)),
                ('number', models.BigIntegerField(help_text='The version as a number that sorts.')),
                ('model', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='offers', to='fleet.devicemodel')),
                ('rollout', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='offers', to='ota.rollout')),
            ],
            options={
                'ordering': ['pk'],
                'constraints': [models.UniqueConstraint(fields=('rollout', 'model'), name='one_offer_for_a_model')],
            },
        ),
    ]
