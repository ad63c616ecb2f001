from django.apps import AppConfig


class CurationConfig(AppConfig):
    name = "evsys_web.curation"
    label = "curation"
