from django.apps import AppConfig


class DatasetsConfig(AppConfig):
    name = "evsys_web.datasets"
    label = "datasets"
