from django.apps import AppConfig


class HomeConfig(AppConfig):
    name = "evsys_web.home"
    label = "home"
