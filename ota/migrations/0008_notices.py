import django.db.models.deletion
import django.utils.timezone
import fleet.models
import ota.models.notices
import uuid
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('fleet', '0001_initial'),
        ('ota', '0007_clocks'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name='News',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('kind', models.CharField(choices=[('started', 'Rollout started'), ('stopped', 'Rollout paused by itself'), ('needs_approval', 'Rollout needs approval'), ('wave_waiting', 'Wave waits for a click'), ('finished', 'Rollout finished'), ('on_site', 'A dock needs a person on site'), ('damaged', 'Package damaged')], max_length=16)),
                ('at', models.DateTimeField()),
                ('title', models.CharField(max_length=300)),
                ('text', models.CharField(blank=True, max_length=500)),
                ('told_at', models.DateTimeField(null=True)),
            ],
            options={
                'verbose_name_plural': 'news',
                'ordering': ['-pk'],
            },
        ),
        migrations.CreateModel(
            name='Notice',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('at', models.DateTimeField()),
                ('is_shown', models.BooleanField(default=True, help_text='In the console.')),
                ('read_at', models.DateTimeField(null=True)),
                ('mail_at', models.DateTimeField(null=True)),
                ('mail_attempts', models.PositiveSmallIntegerField(default=0)),
                ('mailed_at', models.DateTimeField(null=True)),
            ],
            options={
                'ordering': ['-pk'],
                'default_permissions': (),
            },
        ),
        migrations.CreateModel(
            name='Preference',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('console', models.JSONField(default=dict)),
                ('email', models.JSONField(default=dict)),
                ('quiet_hours', models.CharField(blank=True, help_text="When e-mails wait, such as 'Mon-Fri 22:00-05:00, Sat 00:00-24:00'. Empty: never.", max_length=1000, validators=[ota.models.notices.validate_quiet_hours])),
                ('time_zone', models.CharField(default='UTC', help_text='Of the quiet hours, by name, such as Europe/Zurich.', max_length=64, validators=[fleet.models.validate_time_zone])),
            ],
            options={
                'default_permissions': (),
            },
        ),
        migrations.CreateModel(
            name='Webhook',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('url', models.CharField(help_text='Such as https://hooks.example.org/fleet.', max_length=500, verbose_name='address')),
                ('secret', models.CharField(default=ota.models.notices.new_secret, editable=False, max_length=64)),
                ('kinds', models.JSONField(default=list, validators=[ota.models.notices.validate_kinds])),
                ('is_active', models.BooleanField(default=True, verbose_name='active')),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('claimed_until', models.DateTimeField(editable=False, null=True)),
                ('rests_until', models.DateTimeField(editable=False, null=True)),
            ],
            options={
                'ordering': ['organization', 'url'],
            },
        ),
        migrations.CreateModel(
            name='WebhookDelivery',
            fields=[
                ('id', models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ('status', models.CharField(choices=[('pending', 'Waiting'), ('delivered', 'Delivered'), ('failed', 'Given up')], default='pending', max_length=10)),
                ('created_at', models.DateTimeField()),
                ('next_at', models.DateTimeField(null=True, verbose_name='next attempt')),
                ('attempts', models.PositiveSmallIntegerField(default=0)),
                ('tried_at', models.DateTimeField(null=True, verbose_name='last attempt')),
                ('http_code', models.PositiveSmallIntegerField(null=True, verbose_name='HTTP status')),
                ('error', models.CharField(blank=True, max_length=500)),
                ('response', models.CharField(blank=True, max_length=200)),
            ],
            options={
                'verbose_name_plural': 'webhook deliveries',
                'ordering': ['-created_at'],
            },
        ),
        # What happened before there was anybody to tell is no news.
        migrations.AddField(
            model_name='rolloutevent',
            name='told_at',
            field=models.DateTimeField(default=django.utils.timezone.now, help_text='When people were told, if they are.', null=True),
            preserve_default=False,
        ),
        migrations.AddIndex(
            model_name='rolloutevent',
            index=models.Index(condition=models.Q(('told_at', None)), fields=['id'], name='rollout_event_untold'),
        ),
        migrations.AddIndex(
            model_name='upgradetask',
            index=models.Index(condition=models.Q(('result__gt', 0)), fields=['finished_at'], name='task_with_result'),
        ),
        migrations.AddField(
            model_name='news',
            name='package',
            field=models.ForeignKey(null=True, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='ota.firmwarepackage'),
        ),
        migrations.AddField(
            model_name='news',
            name='rollout',
            field=models.ForeignKey(null=True, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='ota.rollout'),
        ),
        migrations.AddField(
            model_name='news',
            name='task',
            field=models.OneToOneField(null=True, on_delete=django.db.models.deletion.CASCADE, related_name='news', to='ota.upgradetask'),
        ),
        migrations.AddField(
            model_name='notice',
            name='news',
            field=models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='notices', to='ota.news'),
        ),
        migrations.AddField(
            model_name='notice',
            name='user',
            field=models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='notices', to=settings.AUTH_USER_MODEL),
        ),
        migrations.AddField(
            model_name='preference',
            name='organization',
            field=models.ForeignKey(null=True, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='fleet.organization'),
        ),
        migrations.AddField(
            model_name='preference',
            name='user',
            field=models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='+', to=settings.AUTH_USER_MODEL),
        ),
        migrations.AddField(
            model_name='webhook',
            name='organization',
            field=models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='webhooks', to='fleet.organization'),
        ),
        migrations.AddField(
            model_name='webhookdelivery',
            name='news',
            field=models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='+', to='ota.news'),
        ),
        migrations.AddField(
            model_name='webhookdelivery',
            name='webhook',
            field=models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='deliveries', to='ota.webhook'),
        ),
        migrations.AddIndex(
            model_name='news',
            index=models.Index(condition=models.Q(('told_at', None)), fields=['id'], name='news_untold'),
        ),
        migrations.AddIndex(
            model_name='news',
            index=models.Index(fields=['at'], name='news_at'),
        ),
        migrations.AddIndex(
            model_name='notice',
            index=models.Index(condition=models.Q(('is_shown', True), ('read_at', None)), fields=['user'], name='notice_unread'),
        ),
        migrations.AddIndex(
            model_name='notice',
            index=models.Index(condition=models.Q(('mail_at__isnull', False)), fields=['mail_at'], name='notice_mail'),
        ),
        migrations.AddIndex(
            model_name='notice',
            index=models.Index(condition=models.Q(('mailed_at__isnull', False)), fields=['mailed_at'], name='notice_mailed'),
        ),
        migrations.AddConstraint(
            model_name='notice',
            constraint=models.UniqueConstraint(fields=('user', 'news'), name='notice_once_for_a_person'),
        ),
        migrations.AddConstraint(
            model_name='preference',
            constraint=models.UniqueConstraint(fields=('user', 'organization'), name='one_preference_in_organization'),
        ),
        migrations.AddConstraint(
            model_name='preference',
            constraint=models.UniqueConstraint(condition=models.Q(('organization', None)), fields=('user',), name='one_preference_in_general'),
        ),
        migrations.AddConstraint(
            model_name='webhook',
            constraint=models.UniqueConstraint(fields=('organization', 'url'), name='webhook_once_in_organization', violation_error_message='The organization has a webhook with this address already.'),
        ),
        migrations.AddIndex(
            model_name='webhookdelivery',
            index=models.Index(condition=models.Q(('status', 'pending')), fields=['webhook', 'next_at'], name='delivery_pending'),
        ),
        migrations.AddIndex(
            model_name='webhookdelivery',
            index=models.Index(fields=['created_at'], name='delivery_created'),
        ),
        migrations.AddConstraint(
            model_name='webhookdelivery',
            constraint=models.UniqueConstraint(fields=('webhook', 'news'), name='delivery_once_of_news'),
        ),
    ]
