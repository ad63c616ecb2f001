from django.apps import AppConfig


class HomeConfig(AppConfig):
    name = "evsys_web.home"
    label = "home"

    def ready(self) -> None:
        from evsys_web import tracing
        from evsys_web.home import checks  # noqa: F401 - registers them

        tracing.begin()
