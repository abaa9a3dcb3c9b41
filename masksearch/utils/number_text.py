"""Numbers as text, for tables and sentences."""


def number_text(value: float, form: str) -> str:
    """Return a number as text in the format ``form``, such as ``+.2f``; a number that rounds to 0 has no minus sign."""
    sign = "+" * form.startswith("+")
    return f"{value:{sign}z{form.removeprefix('+')}}"


def percent(share: float) -> str:
    """Return a share in [0, 1] as text in percent, such as ``99.5 %``."""
    return f"{100 * share:.4g} %"
