"""Dates as everywhere else in the project, and times that say in which zone they are."""

DATE_FORMAT = "Y-m-d"
DATETIME_FORMAT = "Y-m-d H:i:s T"
