from django.apps import AppConfig


class AccountsConfig(AppConfig):
    name = "evsys_web.accounts"
    label = "accounts"

    def ready(self) -> None:
        from evsys_web.accounts.sign_ins import connect  # its models are read by now

        connect()
