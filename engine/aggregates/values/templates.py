"""Go's text/template, as far as one-line formats such as a log's tag need it.

What is there: text, `{{ }}` with trim markers, fields and chains of fields, methods with arguments, calls of the given
functions, pipes, parentheses, literals. What is not: control structures (`if`, `range`, `with`, variables) are refused
by name, as an unknown function is. Complaints are Go's. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

CONTROL = frozenset("if else end range with define template block break continue".split())
_ACTION = re.compile(
    r"""\{\{(?P<left>-\ )?(?P<body>(?:"(?:\\.|[^"\\])*"|`[^`]*`|(?!\}\}).)*?)(?P<right>\ -)?\}\}""", re.DOTALL
)
_TOKEN = re.compile(
    r"""\s*(?:(?P<string>"(?:\\.|[^"\\])*"|`[^`]*`)|(?P<number>[+-]?\d+(?:\.\d+)?)|(?P<fields>(?:\.[A-Za-z_]\w*)+)"""
    r"""|(?P<name>[A-Za-z_]\w*)|(?P<mark>[|().,]))""",
    re.VERBOSE,
)
Call = Callable[..., Any]


class TemplateError(ValueError):
    """The template can not be parsed or executed; the text is Go's."""


class Template:
    """`name` is what complaints call it. fields: what `.Field` gives; a callable is a method."""

    def __init__(self, name: str, text: str, functions: Mapping[str, Call], *, type_name: str) -> None:
        self._name = name
        self._functions = functions
        self._type_name = type_name
        self._parts: list[str | _Action] = []
        self._parse(text)

    def _parse(self, text: str) -> None:
        position, trim = 0, False
        for match in _ACTION.finditer(text):
            before = text[position : match.start()]
            before = before.lstrip() if trim else before
            self._parts.append(before.rstrip() if match["left"] else before)
            position, trim = match.end(), bool(match["right"])
            if not match["body"].strip().startswith("/*"):
                line = text.count("\n", 0, match.start()) + 1
                column = match.start("body") - text.rfind("\n", 0, match.start()) - 1
                self._parts.append(_Action(self, match["body"], line, column))
        rest = text[position:]
        if "{{" in rest:
            raise TemplateError(f"template: {self._name}:{text.count(chr(10)) + 1}: unclosed action")
        self._parts.append(rest.lstrip() if trim else rest)

    def execute(self, fields: Mapping[str, Any]) -> str:
        """Raises TemplateError for fields that are not there and calls that fail."""
        return "".join(part if isinstance(part, str) else printed(part.value(fields)) for part in self._parts)

    def complain(self, line: int, what: str) -> TemplateError:
        return TemplateError(f"template: {self._name}:{line}: {what}")

    def failed(self, line: int, column: int, at: str, what: str) -> TemplateError:
        return TemplateError(f'template: {self._name}:{line}:{column}: executing "{self._name}" at <{at}>: {what}')

    def function(self, name: str, line: int) -> Call:
        if name in CONTROL:
            raise self.complain(line, f"{{{{{name}}}}} is not implemented")
        if name not in self._functions:
            raise self.complain(line, f'function "{name}" not defined')
        return self._functions[name]

    def field(self, owner: Any, name: str, *, top: bool) -> Any:
        """Raises KeyError with Go's complaint."""
        if isinstance(owner, Mapping):
            if name in owner:
                return owner[name]
            if not top:
                return None  # Go prints <no value> for a key that a map has not got.
        kind = self._type_name if top else "[]string" if isinstance(owner, list) else "string"
        raise KeyError(f"can't evaluate field {name} in type {kind}")


class _Action:
    """What stands between `{{` and `}}`: tokens, checked when parsed, walked when executed."""

    def __init__(self, template: Template, body: str, line: int, column: int) -> None:
        self._template, self._line, self._column = template, line, column
        self._tokens: list[tuple[str, str, int]] = []
        position = 0
        while body[position:].strip():
            match = _TOKEN.match(body, position)
            if match is None:
                raise template.complain(line, f"unexpected {body[position:].strip()[0]!r} in command")
            kind = match.lastgroup or ""
            self._tokens.append((kind, match[kind], match.start(kind)))
            position = match.end()
        if not self._tokens:
            raise template.complain(line, "missing value for command")
        for kind, word, _ in self._tokens:
            if kind == "name" and word not in ("true", "false", "nil"):
                template.function(word, line)
        self._at = 0

    def value(self, fields: Mapping[str, Any]) -> Any:
        self._at = 0
        found = self._pipeline(fields)
        if self._at < len(self._tokens):
            raise self._template.complain(self._line, f"unexpected {self._tokens[self._at][1]!r} in command")
        return found

    def _pipeline(self, fields: Mapping[str, Any]) -> Any:
        value = self._command(fields, ())
        while self._peek() == "|":
            self._at += 1
            value = self._command(fields, (value,))
        return value

    def _peek(self) -> str:
        return self._tokens[self._at][1] if self._at < len(self._tokens) else ""

    def _command(self, fields: Mapping[str, Any], piped: tuple[Any, ...]) -> Any:
        _, word, offset = self._tokens[self._at] if self._at < len(self._tokens) else ("", "", 0)
        callee = self._operand(fields)
        arguments: list[Any] = []
        while self._peek() not in ("", "|", ")"):
            operand = self._operand(fields)
            arguments.append(operand() if callable(operand) else operand)
        if not callable(callee):
            if arguments or piped:
                raise self._failed(word, offset, f"can't give argument to non-function {word}")
            return callee
        try:
            return callee(*arguments, *piped)
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            raise self._failed(word, offset, f"error calling {word.lstrip('.')}: {error}") from error

    def _operand(self, fields: Mapping[str, Any]) -> Any:
        if self._at >= len(self._tokens):
            raise self._template.complain(self._line, "missing value for command")
        kind, word, offset = self._tokens[self._at]
        self._at += 1
        match kind:
            case "string":
                value: Any = word[1:-1] if word[0] == "`" else _unescaped(word[1:-1])
            case "number":
                value = float(word) if "." in word else int(word)
            case "name":
                if word in ("true", "false", "nil"):
                    return {"true": True, "false": False, "nil": None}[word]
                return self._template.function(word, self._line)
            case "fields":
                return self._chain(fields, word, offset, top=True)
            case _:
                if word == ".":
                    return fields
                if word != "(":
                    raise self._template.complain(self._line, f"unexpected {word!r} in operand")
                value = self._pipeline(fields)
                if self._peek() != ")":
                    raise self._template.complain(self._line, "unclosed left paren")
                self._at += 1
        if self._at < len(self._tokens) and self._tokens[self._at][0] == "fields" and word == "(":
            _, chain, at = self._tokens[self._at]
            self._at += 1
            return self._chain(value, chain, at, top=False)
        return value

    def _chain(self, owner: Any, chain: str, offset: int, *, top: bool) -> Any:
        for number, name in enumerate(chain[1:].split(".")):
            owner = owner() if callable(owner) else owner
            try:
                owner = self._template.field(owner, name, top=top and not number)
            except KeyError as error:
                raise self._failed(chain, offset, str(error.args[0])) from error
        return owner

    def _failed(self, at: str, offset: int, what: str) -> TemplateError:
        return self._template.failed(self._line, self._column + offset, at, what)


def printed(value: Any) -> str:
    """As fmt.Print shows what templates meet."""
    match value:
        case None:
            return "<no value>"
        case bool():
            return str(value).lower()
        case Mapping():
            return "map[" + " ".join(f"{key}:{printed(value[key])}" for key in sorted(value)) + "]"
        case str():
            return value
        case Sequence():
            return "[" + " ".join(printed(item) for item in value) + "]"
        case _:
            return str(value() if callable(value) else value)


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", lambda match: {"n": "\n", "t": "\t", "r": "\r"}.get(match[1], match[1]), text)
