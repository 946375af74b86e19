"""Django's PostgreSQL with quicker times: ``ENGINE = "database.postgres"``."""
