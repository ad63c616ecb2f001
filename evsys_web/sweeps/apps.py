from django.apps import AppConfig


class SweepsConfig(AppConfig):
    name = "evsys_web.sweeps"
