"""KMS's operations as botocore's service model describes them."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from botocore import xform_name

from enclave.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

Kind = Literal["blob", "boolean", "integer", "list", "map", "string", "structure"]

_HELP_LENGTH = 160

OWN_HELP = {
    "Recipient": "a document of your own, for which nothing is opened: CiphertextForRecipient is "
    "printed (default: this enclave's, and the secret is printed)",
}
"""Where the model's words do not say what an enclave does."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One input of an operation.

    Attributes:
        name: as the KMS API has it, for example ``NumberOfBytes``.
        kind: the model's word for its type.
        required: whether KMS does without.
        help: one sentence.
    """

    name: str
    kind: Kind
    required: bool
    help: str

    @property
    def option(self) -> str:
        """As the AWS CLI has it, for example ``--number-of-bytes``."""
        return f"--{xform_name(self.name, '-')}"

    @property
    def attribute(self) -> str:
        """As argparse has it, for example ``number_of_bytes``."""
        return self.option.removeprefix("--").replace("-", "_")


def parameters(operation: str) -> tuple[Parameter, ...]:
    """Return the inputs of an operation, in the model's order."""
    shape = operation_model(operation).input_shape
    return tuple(
        Parameter(
            name,
            member.type_name,
            name in shape.required_members,
            OWN_HELP.get(name) or first_sentence(member.documentation),
        )
        for name, member in shape.members.items()
    )


def operation_model(operation: str) -> Any:
    """Return the model of one operation (`botocore.model.OperationModel`)."""
    return _service_model().operation_model(operation)


@functools.cache
def _service_model() -> Any:
    # Some 15 ms in all, which generate-random spares itself where it can.
    from botocore.loaders import Loader  # noqa: PLC0415
    from botocore.model import ServiceModel  # noqa: PLC0415

    return ServiceModel(Loader().load_service_model("kms", "service-2"), "kms")


def check(operation: str, given: Mapping[str, Any]) -> None:
    """Check parameters (bytes for blobs) against the model, as botocore does.

    Raises:
        ConfigurationError: everything that is wrong.
    """
    from botocore.validate import ParamValidator  # noqa: PLC0415 (as above)

    report = ParamValidator().validate(given, operation_model(operation).input_shape)
    if report.has_errors():
        raise ConfigurationError(
            "; ".join(report.generate_report().splitlines()),
            hint=f"enclave-agent {xform_name(operation, '-')} --generate-cli-skeleton prints all "
            "parameters",
        )


def first_sentence(documentation: str) -> str:
    """Return the first sentence of the model's HTML, as text."""
    import html  # noqa: PLC0415 (loads every character's name)

    text = html.unescape(re.sub(r"<[^>]*>", " ", documentation))
    text = re.sub(r"\s+", " ", text).strip()
    sentence = re.split(r"(?<=[.:])\s", text, maxsplit=1)[0].rstrip(".:")
    return sentence if len(sentence) <= _HELP_LENGTH else sentence[:_HELP_LENGTH] + "..."
