"""docs/api.md names all that can be called, with all its parameters, and its examples run."""

import inspect
import re

import pytest
from launch import ROOT

import flatdiff

PAGE = (ROOT / "docs/api.md").read_text()
CODE = re.findall(r"```python\n(.*?)```", PAGE, re.S)
SECTIONS = dict(re.findall(r"^##+ (\S+).*?\n(.*?)(?=^##|\Z)", PAGE, re.S | re.M))
FUNCTIONS = {name: getattr(flatdiff, name) for name in flatdiff.__all__ if name.islower()}
FUNCTIONS |= {
    f"subject.{name}": getattr(flatdiff.subject, name) for name in vars(flatdiff.subject)
    if name.startswith("from_")
}  # fmt: skip
MOVES = "quantize gaussian sphere along replace".split()


def written(value):
    return re.escape(f'"{value}"' if isinstance(value, str) else repr(value))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_is_there_with_its_parameters_and_their_defaults(name):
    section = SECTIONS["Perturbations" if name in MOVES else name]
    _, _, rest = section.partition(f"{name}(")
    signature = rest[: re.search(r"\)[`\n]", rest).start()]
    rest = rest.split("\n", 1)[0] if name in MOVES else rest[len(signature) :]
    for parameter in inspect.signature(FUNCTIONS[name]).parameters.values():
        if parameter.default is not parameter.empty:
            assert re.search(rf"\b{parameter.name}={written(parameter.default)}", signature)
        assert re.search(rf"\b{parameter.name}\b", signature)
        assert re.search(rf"`{parameter.name}\b", rest), f"{parameter.name} is not explained"
    known = inspect.signature(FUNCTIONS[name]).parameters
    assert {*re.findall(r"(?:^|[(,]) *\**(\w+)(?==|,|$)", signature, re.M)} <= {*known}


@pytest.mark.parametrize("name", flatdiff.__all__)
def test_a_name_is_in_the_table_and_has_a_section(name):
    table = PAGE.partition("Below,")[0]
    assert f"`{name}`" in table
    assert name in SECTIONS or name in MOVES


def test_what_was_found_and_measured_is_named():
    for name in (name for name in vars(flatdiff.Found) if not name.startswith("_")):
        assert f"`{name}" in SECTIONS["Found"]
    text, made = SECTIONS["Subject"].partition("```")[0], inspect.getsource(flatdiff.Subject)
    for name in {*re.findall(r"`(\w+)", text)} - {"subject", "repr"}:
        assert hasattr(flatdiff.Subject, name) or f"self.{name}" in made, name


@pytest.mark.slow
def test_its_examples_run_one_after_another(folder):
    scope = {"__name__": "__main__"}
    for code in CODE:
        exec(compile(code, "api.md", "exec"), scope)
    assert (folder / "rises.png").stat().st_size > 1000
    assert (folder / "found.json").read_text().startswith("{")
    keys = set().union(*scope["found"].rows, *scope["found"].compare(scope["found"]))
    assert all(f"`{key}`" in SECTIONS["Found"] for key in keys)
    assert all(f"`{key}`" in SECTIONS["Found"] for row in scope["found"].parts for key in row)
