from django.apps import AppConfig


class CyclesConfig(AppConfig):
    name = "evsys_web.cycles"
