"""Writes files as arrays of C, which are compiled into the program of a device."""

import keyword
import re

from tf_tickets import arguments

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_PER_LINE = 12
# Words of C++ that are not words of Python, and cannot name an array.
_RESERVED = """
    alignas alignof and_eq asm auto bitand bitor bool case catch char char16_t
    char32_t char8_t co_await co_return co_yield compl concept const const_cast
    consteval constexpr constinit decltype default delete do double dynamic_cast enum
    explicit export extern false float friend goto inline int long mutable namespace new
    noexcept not_eq nullptr operator or_eq private protected public register
    reinterpret_cast requires short signed sizeof static static_assert static_cast
    struct switch template this thread_local throw true typedef typeid typename union
    unsigned using virtual void volatile wchar_t xor xor_eq
"""


def text(content: bytes, name: str) -> str:
    """Returns C++ source code that defines the content of a file as an array.

    The array is aligned to 16 bytes, as TensorFlow Lite Micro requires. Both constants
    are visible to other source files, which declare them with the two lines that begin
    with `extern`.

    Args:
        content: Content of the file.
        name: Name of the array. The size is called `NAME_size`.

    Example:

    >>> print(text(b"TFL3", "model"))
    // Written by tf_tickets. Compile it as C++11 or later.
    #ifndef MODEL_CC_
    #define MODEL_CC_
    <BLANKLINE>
    extern const unsigned char model[];
    extern const unsigned int model_size;
    <BLANKLINE>
    alignas(16) const unsigned char model[] = {
        0x54, 0x46, 0x4c, 0x33,
    };
    const unsigned int model_size = 4;
    <BLANKLINE>
    #endif  // MODEL_CC_
    <BLANKLINE>
    """
    _check(content, name)
    guard = f"{name.upper()}_CC_"
    return "\n".join(
        [
            "// Written by tf_tickets. Compile it as C++11 or later.",
            f"#ifndef {guard}",
            f"#define {guard}",
            "",
            f"extern const unsigned char {name}[];",
            f"extern const unsigned int {name}_size;",
            "",
            f"alignas(16) const unsigned char {name}[] = {{",
            *_rows(content),
            "};",
            f"const unsigned int {name}_size = {len(content)};",
            "",
            f"#endif  // {guard}",
            "",
        ]
    )


def _check(content, name):
    if not isinstance(content, bytes) or not content:
        raise ValueError(
            "`content` must be bytes of a file, at least one. Received: "
            f"{arguments.shown(content)}"
        )
    word = isinstance(name, str) and _NAME.fullmatch(name) is not None
    if not word or name in _RESERVED.split() or keyword.iskeyword(name) or "__" in name:
        raise ValueError(
            "`name` must be an identifier of C++: letters, digits and single "
            "underscores, beginning with a letter, and no keyword. Received: "
            f"{arguments.shown(name)}"
        )


def _rows(content):
    for start in range(0, len(content), _PER_LINE):
        row = content[start : start + _PER_LINE]
        yield "    " + " ".join(f"0x{byte:02x}," for byte in row)
