"""Optional packages."""

import json

import pytest

from biomamba.runtime.errors import MissingDependencyError, import_optional


def test_installed_module_is_returned() -> None:
    assert import_optional("json", "a test", "nothing") is json


def test_absent_module_is_explained() -> None:
    with pytest.raises(MissingDependencyError) as caught:
        import_optional("no_such_kernels", "backend=fused", "pip install kernels")

    assert str(caught.value) == (
        "backend=fused needs the module no_such_kernels, which cannot be imported "
        "(No module named 'no_such_kernels'); install it: pip install kernels"
    )
