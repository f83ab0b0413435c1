"""The theme's settings, as plain strings: names of callables are resolved by the theme when a page is shown."""

from __future__ import annotations

from typing import Any

TITLE = "Zantara control plane"


def unfold_settings() -> dict[str, Any]:
    """The dictionary for ``settings.UNFOLD``. Imports nothing of Django or the theme."""
    return {
        "SITE_TITLE": TITLE,
        "SITE_HEADER": "Zantara",
        "SITE_SUBHEADER": "Control plane",
        "SITE_SYMBOL": "hub",
        "SITE_URL": None,
        "SITE_FAVICONS": [
            {"rel": "icon", "type": "image/svg+xml", "href": "controlplane.console.assets.favicon"},
        ],
        "SHOW_HISTORY": True,
        "SHOW_VIEW_ON_SITE": False,
        "SHOW_BACK_BUTTON": False,
        "DASHBOARD_CALLBACK": "controlplane.console.pages.start.dashboard",
        "STYLES": ["controlplane.console.assets.stylesheet"],
        "SCRIPTS": ["controlplane.console.assets.script"],
        "BORDER_RADIUS": "6px",
        "COLORS": {
            # Teal: far from the green, amber and red that carry a meaning here.
            "primary": {
                "50": "oklch(97.5% .014 210)",
                "100": "oklch(94.5% .032 210)",
                "200": "oklch(89.5% .058 210)",
                "300": "oklch(82.5% .091 210)",
                "400": "oklch(74.5% .115 212)",
                "500": "oklch(63.5% .118 214)",
                "600": "oklch(52.5% .105 216)",
                "700": "oklch(45.5% .092 217)",
                "800": "oklch(39.5% .077 218)",
                "900": "oklch(34.5% .064 220)",
                "950": "oklch(26.5% .050 222)",
            },
        },
        "COMMAND": {
            "search_models": True,
            "show_history": False,
        },
        "SIDEBAR": {
            "show_search": True,
            "command_search": True,
            "show_all_applications": False,
            "navigation": "controlplane.console.navigation.sidebar",
        },
    }
