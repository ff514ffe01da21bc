"""The choices that bench/kernel_ablations.py undoes."""

import kernel_ablations
from tribody.ops.native import OPS
from tribody.ops.table import check_settings


def test_every_variant_can_be_put_in_force_and_differs_from_the_code_as_it_runs() -> None:
    tunables = OPS.tunables()
    defaults = {tunable.name: tunable.default for tunable in tunables}
    found = list(kernel_ablations.variants())
    assert len({variant.name for variant in found}) == len(found)
    for variant in found:
        check_settings(tunables, variant.settings)
        changed = any(defaults[name] != value for name, value in variant.settings.items())
        assert changed or variant.composed or variant.weights != kernel_ablations.FORMAT
