"""How numbers are written for people: percentages, three significant digits, spreads, radii."""

__all__ = ["percent", "radius", "spread", "three_digits"]

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def percent(value: float) -> str:
    """Write a fraction as a percentage, to a tenth of a point, with a narrow no-break space.

    Example:
        >>> percent(0.975).replace("\u202f", " ")
        '97.5 %'
    """
    return f"{100 * value:.1f}\u202f%"


def three_digits(value: float) -> str:
    """Write a number with three significant digits, without a power of ten from 0.001 up to 100,000.

    Example:
        >>> three_digits(1.666), three_digits(12987.4), three_digits(0.000246)
        ('1.67', '12987', '2.46·10⁻⁴')
    """
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e5:
        digits = max(0, 3 - len(str(int(abs(value)))) + (abs(value) < 1))
        return f"{value:.{digits}f}" if abs(value) >= 0.1 else f"{value:.3g}"
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    return f"{mantissa}·10{str(int(exponent)).translate(_RAISED)}"


def spread(value: float, mean: str) -> str:
    """Write a standard deviation with as many decimals as its mean, or more where it would otherwise be written as 0.

    Args:
        value: the standard deviation.
        mean: the mean as it is written, by :func:`percent` or :func:`three_digits`.
    """
    if mean.endswith("%"):
        return percent(value)
    if "·" in mean:
        return three_digits(value)
    short = f"{value:.{len(mean.partition('.')[2])}f}"
    return short if float(short) or not value else f"{value:.1g}"


def radius(value: float) -> str:
    """Write a radius as short as possible.

    Example:
        >>> radius(2.0), radius(0.5)
        ('2', '0.5')
    """
    return f"{value:g}"
