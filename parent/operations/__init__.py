"""What those who run the parent look at: metrics and health, over HTTP."""

from parent.operations.service import OperationsService
from parent.operations.settings import OperationsSettings, read_operations_section

__all__ = ["OperationsService", "OperationsSettings", "read_operations_section"]
