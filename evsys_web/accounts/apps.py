from django.apps import AppConfig


class AccountsConfig(AppConfig):
    name = "evsys_web.accounts"
    label = "accounts"
