from django.apps import AppConfig


class RunsConfig(AppConfig):
    name = "evsys_web.runs"
    label = "runs"
