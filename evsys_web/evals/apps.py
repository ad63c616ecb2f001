from django.apps import AppConfig


class EvalsConfig(AppConfig):
    name = "evsys_web.evals"
    label = "evals"
