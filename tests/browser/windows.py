"""In which windows pages are looked at."""

PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1280, "height": 900}
WINDOWS = {
    "desktop": {"viewport": DESKTOP, "color_scheme": "light"},
    "desktop, dark": {"viewport": DESKTOP, "color_scheme": "dark"},
    "phone": {"viewport": PHONE, "color_scheme": "light", "has_touch": True},
    "phone, dark": {"viewport": PHONE, "color_scheme": "dark", "has_touch": True},
}
