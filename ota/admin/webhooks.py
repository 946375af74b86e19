"""Webhooks in the console, and the log of what was sent to them."""

from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.template.defaultfilters import pluralize
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.safestring import SafeString
from django.views.decorators.cache import never_cache

from console.buttons import pressed_on
from console.filters import OneOfFilter, ValueFilter
from console.labels import NOTHING, ago, label, link, two_lines
from console.lists import ReadOnlyAdmin
from console.prefilled import PrefilledAdmin
from ota.admin.notice_forms import WebhookForm
from ota.models import Webhook, WebhookDelivery
from ota.models.notices import Kind, new_secret

Status = WebhookDelivery.Status
COLOURS = {Status.PENDING: "info", Status.DELIVERED: "success", Status.FAILED: "danger"}


@admin.register(Webhook)
class WebhookAdmin(PrefilledAdmin[Webhook]):
    """The secret is shown once, when it is made, and on no page after that."""

    form = WebhookForm
    list_display = ["organization", "url", "kinds_in_words", "is_active", "deliveries"]
    list_display_links = ["url"]
    list_filter = ["is_active"]
    list_select_related = ["organization"]
    search_fields = ["organization__name", "organization__identifier", "url"]
    autocomplete_fields = ["organization"]
    change_form_outer_before_template = "admin/ota/webhook/above.html"

    @admin.display(description="What is sent")
    def kinds_in_words(self, webhook: Webhook) -> str:
        if set(webhook.kinds) == set(Kind.values):
            return "everything"
        return ", ".join(Kind(kind).label for kind in webhook.kinds)

    @admin.display(description="Deliveries")
    def deliveries(self, webhook: Any) -> SafeString:
        url = reverse("admin:ota_webhookdelivery_changelist")
        text = f"{webhook.waiting:,} waiting, {webhook.given_up:,} given up"
        return link(f"{url}?webhook__id__exact={webhook.pk}", text)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Webhook]:
        found: QuerySet[Webhook] = super().get_queryset(request)
        return found.annotate(
            waiting=Count("deliveries", filter=Q(deliveries__status=Status.PENDING)),
            given_up=Count("deliveries", filter=Q(deliveries__status=Status.FAILED)),
        )

    def get_urls(self) -> list[URLPattern]:
        renew = pressed_on("admin:ota_webhook_change", self.new_secret)
        view = self.admin_site.admin_view(renew)
        own = path("<int:pk>/secret/", view, name="ota_webhook_secret")
        return [own, *super().get_urls()]

    def response_add(
        self, request: HttpRequest, obj: Webhook, post_url_continue: str | None = None
    ) -> HttpResponse:
        return self._secret_page(request, obj)

    def new_secret(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Makes another secret; what is sent from now on is signed with it."""
        webhook = get_object_or_404(Webhook, pk=pk)
        if not self.has_change_permission(request, webhook):
            raise PermissionDenied
        webhook.secret = new_secret()
        webhook.save(update_fields=["secret"])
        self.log_change(request, webhook, "Made a new secret.")
        return self._secret_page(request, webhook)

    def _secret_page(self, request: HttpRequest, webhook: Webhook) -> HttpResponse:
        """Answers at once, so that the secret is in no cookie, session or address."""
        context = self.admin_site.each_context(request) | {
            "title": "The webhook's secret",
            "webhook": webhook,
            "opts": self.model._meta,
        }
        page = never_cache(TemplateResponse)
        return page(request, "admin/ota/webhook/secret.html", context)


@admin.register(WebhookDelivery)
class WebhookDeliveryAdmin(ReadOnlyAdmin[WebhookDelivery]):
    list_display = ["news", "webhook", "state", "http_code", "tries", "created", "next"]
    list_filter = [("status", ValueFilter), ("webhook", OneOfFilter)]
    list_filter_submit = True
    list_select_related = ["news", "webhook__organization"]
    list_per_page = 50
    show_full_result_count = False
    fields = [
        *("id", "webhook", "news", "state", "http_code", "error", "response"),
        *("attempts", "created_at", "tried_at", "next_at"),
    ]
    readonly_fields = ["state"]
    actions = ["send_again"]  # type: ignore[assignment]  # the base has none

    @admin.display(description="State", ordering="status")
    def state(self, delivery: WebhookDelivery) -> SafeString:
        status = Status(delivery.status)
        return two_lines(label(status.label, COLOURS[status]), delivery.error)

    @admin.display(description="Attempts", ordering="attempts")
    def tries(self, delivery: WebhookDelivery) -> int:
        return delivery.attempts

    @admin.display(description="Created", ordering="created_at")
    def created(self, delivery: WebhookDelivery) -> SafeString:
        return ago(delivery.created_at)

    @admin.display(description="Next attempt", ordering="next_at")
    def next(self, delivery: WebhookDelivery) -> Any:
        return delivery.next_at or NOTHING

    def has_send_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("ota.change_webhook")

    @admin.action(description="Send again", permissions=["send"])
    def send_again(self, request: HttpRequest, queryset: QuerySet[WebhookDelivery]) -> None:
        """Also what was delivered; the id stays, by which a receiver knows it."""
        found = dict(queryset.values_list("pk", "webhook__is_active"))
        chosen = WebhookDelivery.objects.filter(pk__in=[pk for pk, is_on in found.items() if is_on])
        Webhook.objects.filter(deliveries__in=chosen).update(rests_until=None)
        count = chosen.update(status=Status.PENDING, attempts=0, next_at=timezone.now())
        if count:
            self.message_user(request, f"{count:,} will be sent now.", messages.SUCCESS)
        if left := len(found) - count:
            text = f"{left:,} {pluralize(left, 'was,were')} left out, as {pluralize(left, 'its,their')}"
            text += f" webhook{pluralize(left, ' is,s are')} not active. Tick “Active” there first."
            self.message_user(request, text, messages.WARNING)
