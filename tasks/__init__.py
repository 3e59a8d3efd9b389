"""Thin Prefect tasks around the library. MLflow lives here; nothing here computes."""

from tasks.logs import say_errors_in_sentences

say_errors_in_sentences()
