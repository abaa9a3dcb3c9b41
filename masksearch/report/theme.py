"""Figures on pages of two themes: every colour of an SVG with its counterpart for dark pages."""

import colorsys
import re

__all__ = ["dark", "themed"]

_PAGE = 0.01  # relative luminance of the dark page
_CONTRAST = 4.5  # of a line or a text with it, at least (WCAG 2, level AA)


def themed(svg: str) -> str:
    """The SVG with ``light-dark(...)`` in the place of every colour, and its texts in the page's typeface."""
    svg = re.sub(r"font-family: [^;\"]*(; )?", "", svg)
    return re.sub(r"(fill|stroke): (#[0-9a-f]{6})", lambda m: f"{m[1]}: light-dark({m[2]}, {dark(m[2])})", svg)


def dark(colour: str) -> str:
    """What ``#rrggbb`` is on a dark page: greys change sides, colours become as light as they must to be seen."""
    red, green, blue = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    lightness = (max(red, green, blue) + min(red, green, blue)) / 2
    if max(red, green, blue) - min(red, green, blue) < 0.1:
        return _hex(*3 * [0.9 - 0.8 * lightness])
    hue, lightness, saturation = colorsys.rgb_to_hls(red, green, blue)
    while (_luminance(red, green, blue) + 0.05) / (_PAGE + 0.05) < _CONTRAST:
        lightness += 0.02
        red, green, blue = colorsys.hls_to_rgb(hue, lightness, saturation)
    return _hex(red, green, blue)


def _luminance(*rgb: float) -> float:
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _hex(*rgb: float) -> str:
    return "#" + "".join(f"{round(255 * min(1.0, max(0.0, value))):02x}" for value in rgb)
