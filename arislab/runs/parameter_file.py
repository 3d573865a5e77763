"""Parameters from a YAML file, with the characters that its author wrote: ``no`` may be a word, and 3.10 a version.

model: 3.10    # YAML reads the number 3.1; the parameter is declared as text, so it is 3.10
"""

from pathlib import Path
from typing import Any

from arislab.errors import PrerequisiteError


class Written(str):
    """A value of a YAML file that stands there without quotes.

    Its characters, and what YAML takes it for (``no`` for false, 3.10 for 3.1).
    """

    meant: Any


def _loader() -> Any:
    """YAML's safe loader that keeps how a value was written, and refuses a name that stands twice."""
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        def construct_object(self, node: Any, deep: bool = False) -> Any:  # noqa: FBT001, FBT002 - yaml's signature
            value = super().construct_object(node, deep)
            if not isinstance(node, yaml.ScalarNode) or node.style is not None or isinstance(value, str):
                return value
            written = Written(node.value)
            written.meant = value
            return written

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:  # noqa: FBT001, FBT002 - yaml's signature
            seen: dict[str, int] = {}
            for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
                if not isinstance(key, yaml.ScalarNode):
                    continue
                line = key.start_mark.line + 1
                if key.value in seen:
                    raise ValueError(
                        f"{key.value!r} stands on line {seen[key.value]} and again on line {line}; keep one"
                    )
                seen[key.value] = line
            return super().construct_mapping(node, deep)

    return Loader


def meant(value: Any) -> Any:
    """Return a value as YAML takes it, with all that it holds."""
    if isinstance(value, Written):
        return value.meant
    if isinstance(value, dict):
        return {str(key): meant(item) for key, item in value.items()}
    return [meant(item) for item in value] if isinstance(value, list) else value


def from_file(path: Path) -> dict[str, Any]:
    """Return the parameters of a YAML (or JSON) file: one mapping of names to values; none if it holds only comments.

    A value without quotes is a ``Written``: the declared type decides what it is, as on the command line.

    Raises:
        PrerequisiteError: The file is missing, is no mapping, or has a name twice.
    """
    import yaml

    try:
        content = yaml.load(path.read_text(encoding="utf-8-sig"), Loader=_loader())
    except (OSError, UnicodeDecodeError, ValueError, RecursionError, yaml.YAMLError) as error:
        message = " ".join(str(error).split())
        raise PrerequisiteError(
            f"cannot read the parameters file {path} ({message}); it must be YAML: one 'name: value' a line."
        ) from None
    if meant(content) is None:
        return {}
    if not isinstance(content, dict):
        raise PrerequisiteError(
            f"{path} holds {type(meant(content)).__name__}, not parameters; write one 'name: value' a line."
        )
    return {str(name): value for name, value in content.items()}
