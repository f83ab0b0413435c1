"""The WSGI entry point of the control plane."""

from __future__ import annotations

import os

from django.core.wsgi import get_wsgi_application

from controlplane.monitoring.warm import warm_up

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "controlplane.settings")

application = get_wsgi_application()
warm_up()
