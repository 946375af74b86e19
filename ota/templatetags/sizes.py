"""Sizes in words."""

from django import template

from console import sizes

register = template.Library()
register.filter("size", sizes.shown_size)
