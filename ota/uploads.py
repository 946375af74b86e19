"""Packages on their way in: pieces that may come late or never, and go on where they stopped."""

from ota import storage
from ota.models import Upload


def drop(upload: Upload) -> None:
    """Forgets an upload with what has arrived of it."""
    storage.remove(upload.key)
    Upload.objects.filter(pk=upload.pk).delete()
