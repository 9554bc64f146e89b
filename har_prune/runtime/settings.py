"""The base of all settings: frozen, strict about names and numbers, with the nearest known key in their messages."""

from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from har_prune.errors import did_you_mean


class Settings(BaseModel):
    """Base class of recipe sections; each lives in the room whose code it sets."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="wrap")
    @classmethod
    def _explained(cls, values: Any, handler: ModelWrapValidatorHandler) -> Any:
        """Says of an unknown key which one is near, and refuses true and false for numbers: pydantic reads 1 and 0."""
        problems = []
        if isinstance(values, dict):
            for name, value in values.items():
                if isinstance(value, bool) and _is_number(cls, name):
                    problems.append(_problem("bool", f"a number is wanted, and this is {value}", (name,), value))
            values = {name: value for name, value in values.items() if (name,) not in [p["loc"] for p in problems]}
        try:
            found = handler(values)
        except ValidationError as error:
            problems += [_said(cls, problem) for problem in error.errors(include_url=False)]
        if problems:
            raise ValidationError.from_exception_data(cls.__name__, problems)
        return found


def _is_number(settings: type[BaseModel], name: str) -> bool:
    field = settings.model_fields.get(name)
    kinds = () if field is None else (field.annotation, *get_args(field.annotation))
    return bool({int, float} & set(kinds)) and bool not in kinds


def _said(settings: type[BaseModel], problem: Any) -> InitErrorDetails:
    kind, message = problem["type"], problem["msg"]
    if kind == "extra_forbidden":
        known, (name, *_) = list(settings.model_fields), problem["loc"]
        message = f"unknown key.{did_you_mean(str(name), known)} Known here: {', '.join(known)}"
    return _problem(kind if kind != "extra_forbidden" else "unknown_key", message, problem["loc"], problem["input"])


def _problem(kind: Any, message: str, where: tuple[int | str, ...], value: Any) -> InitErrorDetails:
    said = PydanticCustomError(kind, "{message}", {"message": message})
    return InitErrorDetails(type=said, loc=where, input=value)
