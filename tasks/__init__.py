"""Thin Prefect tasks around the library. MLflow lives here; nothing here computes."""
