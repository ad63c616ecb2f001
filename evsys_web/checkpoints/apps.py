from django.apps import AppConfig


class CheckpointsConfig(AppConfig):
    name = "evsys_web.checkpoints"
    label = "checkpoints"
