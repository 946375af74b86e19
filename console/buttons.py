"""Views behind the console's buttons, which nobody reaches by a link."""

from collections.abc import Callable
from functools import wraps

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_POST

View = Callable[..., HttpResponse]


def pressed_on(page: str, view: View) -> View:
    """``view`` for what was pressed on the page with this name, of the object with the key ``pk`` if there is one.

    Whoever has to log in after a press comes back by a link, without what was pressed.
    """

    @wraps(view)
    def answer(request: HttpRequest, **values: object) -> HttpResponse:
        if request.method not in {"GET", "HEAD"}:
            return require_POST(view)(request, **values)
        messages.warning(request, "Nothing was done: press the button again.")
        return redirect(page, *([values["pk"]] if "pk" in values else []))

    return answer
