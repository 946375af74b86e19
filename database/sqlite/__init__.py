"""Django's SQLite with quicker times: ``ENGINE = "database.sqlite"``."""
