"""Django's settings; every one that differs between installations comes from the environment."""

import socket
import sys
from pathlib import Path
from urllib.parse import urlsplit

import django_stubs_ext
from celery.schedules import crontab
from django.templatetags.static import static
from django.urls import reverse_lazy

from config import env
from config.logs import logging_config

django_stubs_ext.monkeypatch()

BASE_DIR = Path(__file__).resolve().parent.parent

DEBUG = env.flag("DEBUG", False)
SECRET_KEY = env.text("SECRET_KEY")
if not SECRET_KEY:
    if not DEBUG:
        env.wrong("SECRET_KEY", None, "a long random text (it may be missing only with DEBUG=1)")
    SECRET_KEY = "insecure: for development only"  # noqa: S105

PUBLIC_URL = env.base("PUBLIC_URL", "http://127.0.0.1:8000")
FIRMWARE_URL = env.base("FIRMWARE_URL", "http://127.0.0.1:8001")
ALLOWED_HOSTS = env.hosts(
    "ALLOWED_HOSTS", [str(urlsplit(PUBLIC_URL).hostname), "127.0.0.1", "localhost"]
)
CSRF_TRUSTED_ORIGINS = env.origins("CSRF_TRUSTED_ORIGINS", [PUBLIC_URL])

# Over https everything that browsers offer for it is on.
_HTTPS = PUBLIC_URL.startswith("https://")
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if _HTTPS else None
SECURE_SSL_REDIRECT = _HTTPS
SECURE_REDIRECT_EXEMPT = ["^healthz$", "^readyz$", "^metrics$"]  # asked for inside the network
SECURE_HSTS_SECONDS = 31_536_000 if _HTTPS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = _HTTPS
SECURE_HSTS_PRELOAD = _HTTPS
SESSION_COOKIE_SECURE = _HTTPS
CSRF_COOKIE_SECURE = _HTTPS

INSTALLED_APPS = [
    # It brings ``runserver``, and with it a network library that no other command needs.
    *(["daphne"] if sys.argv[1:2] == ["runserver"] else []),
    "unfold",
    "unfold.contrib.filters",
    "config.pages.Pages",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.humanize",
    "django.contrib.staticfiles",
    "channels",
    "console",
    "database",
    # The order is the order in which a message's handlers run: a device is known before its task.
    "mqtt_bridge",
    "fleet",
    "ota",
    "simulator",
    "config",
    "demo",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "servestatic.middleware.ServeStaticMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "config.urls"
ASGI_APPLICATION = "config.asgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        # unfold looks for the dashboard here, not in our applications.
        "DIRS": [BASE_DIR / "config" / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

FORM_RENDERER = "console.inputs.Renderer"

DATABASES = {"default": env.database("DATABASE_URL", "sqlite:///var/db.sqlite3", BASE_DIR)}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]
LOGIN_URL = "admin:login"
LOGIN_REDIRECT_URL = "admin:index"

LANGUAGE_CODE = "en"
FORMAT_MODULE_PATH = "config.formats"
TIME_ZONE = env.time_zone("TIME_ZONE", "UTC")
USE_TZ = True

STATIC_URL = "static/"
STATIC_ROOT = BASE_DIR / "var" / "static"
# Found in the packages when a process starts, so no collectstatic is needed.
SERVESTATIC_USE_FINDERS = True
SERVESTATIC_AUTOREFRESH = False
STORAGES = {
    "default": env.storage("STORAGE_URL", "file://var/media", BASE_DIR),
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}

REDIS_URL = env.redis("REDIS_URL", "redis://127.0.0.1:6379/0")
CHANNEL_LAYERS = {
    "default": {
        # The pubsub layer: cheaper per message, and no blocking reads that a socket timeout ends.
        "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
        "CONFIG": {"hosts": [REDIS_URL]},
    }
}

CELERY_BROKER_URL = REDIS_URL
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_WORKER_CONSUMER = "config.worker:Consumer"
CELERY_TASK_IGNORE_RESULT = True
# The database is the queue: a chunk that a killed worker took is planned again by the clock,
# so nothing is gained by holding tasks back or by handing them out early.
CELERY_TASK_ACKS_LATE = False
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_TIMEZONE = TIME_ZONE
# A tick that nobody took in time is worthless: the next one does the same.
CELERY_BEAT_SCHEDULE = {
    "advance": {"task": "ota.tasks.advance", "schedule": 1.0, "options": {"expires": 10}},
    "gather": {"task": "ota.tasks.gather", "schedule": 10.0, "options": {"expires": 10}},
    "presence": {"task": "fleet.tasks.mark_silent", "schedule": 5.0, "options": {"expires": 10}},
    "tell": {"task": "ota.tasks.tell", "schedule": 3.0, "options": {"expires": 10}},
    "mail": {"task": "ota.tasks.mail", "schedule": 10.0, "options": {"expires": 10}},
    "deliver": {"task": "ota.tasks.deliver", "schedule": 5.0, "options": {"expires": 10}},
    # Often, because hours may be open for minutes only, and nothing is told of what waits for them.
    "tell_standstill": {"task": "ota.tasks.tell_standstill", "schedule": crontab(minute="2-59/5")},
    "forget_news": {"task": "ota.tasks.forget_news", "schedule": crontab(minute=7)},
    "fold_history": {
        "task": "ota.tasks.fold_history",
        "schedule": 60.0,
        "options": {"expires": 60},
    },
    "look_at_rows": {
        "task": "config.tasks.look_at_rows",
        "schedule": crontab(minute=17),
        "options": {"expires": 3600},
    },
    "forget_sessions": {
        "task": "config.tasks.forget_sessions",
        "schedule": crontab(minute=27),
        "options": {"expires": 3600},
    },
    "packages": {"task": "ota.tasks.check_packages", "schedule": 5.0, "options": {"expires": 10}},
    "expire_uploads": {
        "task": "ota.tasks.expire_uploads",
        "schedule": crontab(minute=37),
        "options": {"expires": 3600},
    },
}
# Keeps no file of when it did what: what is seldom goes by the clock's minute, however young beat is.
CELERY_BEAT_SCHEDULER = "celery.beat:Scheduler"

MQTT_URL = env.broker("MQTT_URL", "mqtt://127.0.0.1:1883")
MQTT_VERSION = env.choice("MQTT_VERSION", "3.1.1", ("3.1.1", "5"))
MQTT_CA_FILE = env.authorities("MQTT_CA_FILE")
MQTT_CLIENT_CERT, MQTT_CLIENT_KEY = env.certificate("MQTT_CLIENT_CERT", "MQTT_CLIENT_KEY")
MQTT_CLIENT_ID = env.text("MQTT_CLIENT_ID", f"fleet-ota-{socket.gethostname()}", most=200)
MQTT_SHARED_GROUP = env.group("MQTT_SHARED_GROUP")
MQTT_ANSWER_REQUESTS = env.flag("MQTT_ANSWER_REQUESTS", True)

DJI_APP_ID = env.text("DJI_APP_ID")
DJI_APP_KEY = env.text("DJI_APP_KEY")
DJI_APP_LICENSE = env.text("DJI_APP_LICENSE")
NTP_SERVER_HOST = env.text("NTP_SERVER_HOST", "pool.ntp.org")

# Times in seconds.
FIRMWARE_LINK_HOURS = env.number("FIRMWARE_LINK_HOURS", 12, least=0.001, most=24 * 7)
OFFLINE_AFTER = env.number("OFFLINE_AFTER_SECONDS", 60, least=1)
SETTLE_TIME = env.number("SETTLE_SECONDS", 10)
REPLY_TIME = env.number("OTA_REPLY_SECONDS", 30, least=1)
STALL_TIME = env.number("OTA_STALL_SECONDS", 20 * 60, least=1)
HARD_LIMIT = env.number("OTA_HARD_LIMIT_SECONDS", 90 * 60, least=1)
VERIFY_TIME = env.number("OTA_VERIFY_SECONDS", 15 * 60, least=1)
SEND_ATTEMPTS = env.integer("OTA_SEND_ATTEMPTS", 2, least=1, most=10)
RETRIES = env.integer("OTA_RETRIES", 2, least=0, most=100)
RETRY_PAUSE = env.number("OTA_RETRY_PAUSE_SECONDS", 5 * 60, least=1)
WAIT_RETRIES = env.integer("OTA_WAIT_RETRIES", 8, least=0, most=100)
WAIT_PAUSE = env.number("OTA_WAIT_PAUSE_SECONDS", 60, least=1)
ROLLOUT_MOST_DEVICES = env.integer("ROLLOUT_MOST_DEVICES", 25_000, least=1, most=1_000_000)
SYSTEM_LIMIT_IN_FLIGHT = env.integer("SYSTEM_LIMIT_IN_FLIGHT", 0, least=0, most=1_000_000)
LIMIT_IN_FLIGHT = env.integer("ROLLOUT_LIMIT_IN_FLIGHT", 20, least=1, most=100_000)
# Longer than any broker keeps a message: one that comes again has to find its line.
EVENT_DAYS = env.number("EVENT_DAYS", 90, least=14, most=36_500)

# Without a mail server no e-mail is made.
_MAIL = env.email("EMAIL_URL")
SENDS_EMAIL = bool(env.text("EMAIL_URL"))
EMAIL_BACKEND = _MAIL["EMAIL_BACKEND"]
EMAIL_HOST = _MAIL.get("EMAIL_HOST") or "localhost"
EMAIL_PORT = _MAIL.get("EMAIL_PORT", 25)
EMAIL_HOST_USER = _MAIL.get("EMAIL_HOST_USER") or ""
EMAIL_HOST_PASSWORD = _MAIL.get("EMAIL_HOST_PASSWORD") or ""
EMAIL_USE_TLS = _MAIL.get("EMAIL_USE_TLS", False)
EMAIL_USE_SSL = _MAIL.get("EMAIL_USE_SSL", False)
EMAIL_TIMEOUT = 8  # s; a worker that is asked to end has 10
DEFAULT_FROM_EMAIL = env.sender("DEFAULT_FROM_EMAIL", f"fleet-ota@{urlsplit(PUBLIC_URL).hostname}")
WEBHOOK_ALLOW_PRIVATE = env.flag("WEBHOOK_ALLOW_PRIVATE", False)
RECHECK_HOURS = env.number("RECHECK_HOURS", 24, most=24 * 365)

# Packages on their way out. 0: no limit.
FIRMWARE_BYTES_PER_SECOND = env.integer("FIRMWARE_BYTES_PER_SECOND", 0, least=0, most=10**9)
FIRMWARE_DOWNLOADS = env.integer("FIRMWARE_DOWNLOADS", 0, least=0, most=100_000)
FIRMWARE_NO_SHOW = env.number("FIRMWARE_NO_SHOW_SECONDS", 10 * 60, least=1)
FIRMWARE_ACCEL_PREFIX = env.prefix("FIRMWARE_ACCEL_PREFIX")
FIRMWARE_S3_REDIRECT = env.flag("FIRMWARE_S3_REDIRECT", False)

# Packages on their way in.
UPLOAD_LIMIT_GB = env.number("UPLOAD_LIMIT_GB", 4, least=0.001, most=64)
UPLOAD_DAYS = env.number("UPLOAD_DAYS", 7, least=0.01, most=365)

LOGGING = logging_config(env.choice("LOG_FORMAT", "text", ("text", "json")))


def _page(title: str, icon: str, model: str) -> dict[str, object]:
    """A page in the sidebar, for those who may see it; ``model`` as ``app.model``."""
    app, name = model.split(".")
    return {
        "title": title,
        "icon": icon,
        "link": reverse_lazy(f"admin:{app}_{name}_changelist"),
        "permission": lambda request: request.user.has_perm(f"{app}.view_{name}"),
    }


UNFOLD = {
    "SITE_TITLE": "Fleet OTA",
    "SITE_HEADER": "Fleet OTA",
    "SITE_SUBHEADER": "Firmware for docks and aircraft",
    "SITE_SYMBOL": "system_update_alt",
    "SITE_URL": None,  # the console is the site
    "SITE_FAVICONS": [
        {
            "rel": "icon",
            "type": "image/svg+xml",
            "href": lambda request: static("ota/favicon.svg"),
        }
    ],
    "SHOW_HISTORY": True,
    "SHOW_VIEW_ON_SITE": False,
    "DASHBOARD_CALLBACK": "config.dashboard.context",
    "STYLES": [lambda request: static("ota/console.css"), lambda request: static("ota/bell.css")],
    "SCRIPTS": [lambda request: static("ota/bell.js")],
    # A blue, so that red, orange and green keep their meaning.
    "COLORS": {
        "primary": {
            "50": "oklch(97% .014 254.6)",
            "100": "oklch(93.2% .032 255.6)",
            "200": "oklch(88.2% .059 254.1)",
            "300": "oklch(80.9% .105 251.8)",
            "400": "oklch(70.7% .165 254.6)",
            "500": "oklch(62.3% .214 259.8)",
            "600": "oklch(54.6% .215 262.9)",
            "700": "oklch(48.8% .217 264.4)",
            "800": "oklch(42.4% .181 265.6)",
            "900": "oklch(37.9% .138 265.5)",
            "950": "oklch(28.2% .087 267.9)",
        }
    },
    "SIDEBAR": {
        "show_search": False,
        "navigation": [
            {
                "title": "Fleet",
                "items": [
                    {
                        "title": "Dashboard",
                        "icon": "dashboard",
                        "link": reverse_lazy("admin:index"),
                    },
                    _page("Devices", "flight_takeoff", "fleet.device"),
                    _page("Sites", "location_on", "fleet.site"),
                    _page("Organizations", "corporate_fare", "fleet.organization"),
                    _page("Device models", "category", "fleet.devicemodel"),
                ],
            },
            {
                "title": "Firmware",
                "items": [
                    _page("Packages", "inventory_2", "ota.firmwarepackage"),
                    _page("Product codes", "tag", "ota.productcode"),
                    _page("Rollouts", "rocket_launch", "ota.rollout"),
                    _page("Rollout policies", "policy", "ota.organizationpolicy"),
                    _page("Upgrade tasks", "task", "ota.upgradetask"),
                    _page("Foreign upgrades", "warning", "ota.foreignupgrade"),
                ],
            },
            {
                "title": "Operation",
                "items": [
                    _page("Failed messages", "report", "mqtt_bridge.failedmessage"),
                    _page("Webhooks", "webhook", "ota.webhook"),
                    _page("Webhook deliveries", "outbox", "ota.webhookdelivery"),
                    _page("Bridges", "cable", "mqtt_bridge.bridgesession"),
                    _page("Users", "person", "auth.user"),
                    _page("Groups", "group", "auth.group"),
                ],
            },
        ],
    },
}
