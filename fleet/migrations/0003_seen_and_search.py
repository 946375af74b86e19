import logging

from django.db import DatabaseError, migrations, models, transaction

logger = logging.getLogger(__name__)


def index_searches(apps, schema_editor):
    """PostgreSQL finds a part of a word by its trigrams, which an extension of its own knows.

    Whoever may not have it goes on without: a search reads all devices then.
    """
    connection = schema_editor.connection
    if connection.vendor != 'postgresql':
        return
    try:
        with transaction.atomic(connection.alias):
            schema_editor.execute('CREATE EXTENSION IF NOT EXISTS pg_trgm')
            schema_editor.execute(
                'CREATE INDEX IF NOT EXISTS device_search ON fleet_device USING gin '
                '(upper(sn::text) gin_trgm_ops, upper(callsign::text) gin_trgm_ops)'
            )
    except DatabaseError as error:
        logger.warning(
            'A search will read all devices, because PostgreSQL does not give us its extension '
            'pg_trgm here (%s). docs/deploy.md says how to add it.', str(error).splitlines()[0]
        )


def forget_searches(apps, schema_editor):
    if schema_editor.connection.vendor == 'postgresql':
        schema_editor.execute('DROP INDEX IF EXISTS device_search')


class Migration(migrations.Migration):

    dependencies = [
        ('fleet', '0002_need_in_order'),
    ]

    operations = [
        migrations.RemoveIndex(
            model_name='device',
            name='device_presence',
        ),
        migrations.AddIndex(
            model_name='device',
            index=models.Index(fields=['presence'], name='device_presence'),
        ),
        migrations.RunPython(index_searches, forget_searches),
    ]
