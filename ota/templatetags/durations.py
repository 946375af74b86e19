"""Durations in words."""

from django import template

from ota import terms

register = template.Library()
register.filter("lasted", terms.lasted)
