r"""Turn the formulas of a page into MathML, which a browser draws by itself: no script, no network.

TeX stands in a page between ``$`` and ``$``, or ``$$`` and ``$$`` for a line of its own, escaped as HTML is.
"""

import html
import re

from latex2mathml.converter import convert

from vaelib.engine.errors import InputError

# What holds no formula: code, what is drawn or run, a formula that is there already, and any tag.
KEPT = re.compile(r"<(pre|code|script|style|math|svg|textarea)\b[\s\S]*?</\1>|<[^<>]+>")
TEX = re.compile(r"\$\$([\s\S]+?)\$\$|(?<![\\$])\$(?![\s$])([^$]+?)(?<![\s\\])\$(?![\d$])")
BLANKS = {"script": 0x1D49C, "double-struck": 0x1D538}  # where the capitals of an alphabet begin in Unicode
HOLES = {"script": dict(zip("BEFHILMR", "ℬℰℱℋℐℒℳℛ", strict=True))}  # those that older blocks have
HOLES["double-struck"] = dict(zip("CHNPQRZ", "ℂℍℕℙℚℝℤ", strict=True))
STYLED = re.compile(r'<(m[io]) mathvariant="(script|double-struck)">([A-Z])</\1>')
FUNCTION = re.compile(r'(<mi>(?:log|exp|tanh|max|min)</mi>)(?!<mo stretchy="false">&#x00028;|</)')


def letter(match: re.Match) -> str:
    """Write a letter of an alphabet of its own as the character that Unicode has for it; browsers style none."""
    _, alphabet, capital = match.groups()
    return f"<mi>{HOLES[alphabet].get(capital) or chr(BLANKS[alphabet] + ord(capital) - ord('A'))}</mi>"


def mathml(tex: str, block: bool = False) -> str:
    """Turn one formula into MathML.

    Raises
    ------
    InputError
        If the formula holds something that is not understood.
    """
    try:
        made = convert(tex.strip(), display="block" if block else "inline")
    except Exception as error:
        raise InputError(f"${tex}$: no formula that can be drawn ({type(error).__name__}: {error})") from error
    if "\\" in html.unescape(made):
        raise InputError(f"${tex}$: a command in it is not known: {html.unescape(made)}")
    made = STYLED.sub(letter, made)
    made = made.replace('width="negativethinmathspace"', 'width="-0.17em"')
    made = made.replace("<mo>&#x0003D;</mo><mi>:</mi>", "<mo>=:</mo>")
    return FUNCTION.sub(r'\1<mspace width="0.17em" />', made)


def formulas(page: str) -> str:
    """Put MathML in the place of each formula of a page."""

    def outside(text: str) -> str:
        return TEX.sub(lambda m: mathml(html.unescape(m[1] or m[2]), block=bool(m[1])), text)

    parts, end = [], 0
    for kept in KEPT.finditer(page):
        parts += [outside(page[end : kept.start()]), kept[0]]
        end = kept.end()
    return "".join([*parts, outside(page[end:])])
