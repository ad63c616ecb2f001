from django.apps import AppConfig


class QueueConfig(AppConfig):
    name = "evsys_web.queue"
