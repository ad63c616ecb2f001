from django.apps import AppConfig


class NotificationsConfig(AppConfig):
    name = "evsys_web.notifications"
    label = "notifications"
