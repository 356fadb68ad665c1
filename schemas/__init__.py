"""Which telemetry schemas are released? Their texts, by name, wherever this package is installed."""

from importlib import resources


def read_telemetry() -> dict[str, str]:
    """Return the text of every released schema by its name, such as `telemetry-1.0`. Raises FileNotFoundError."""
    files = resources.files(__name__).joinpath("telemetry").iterdir()
    texts = {
        file.name.removesuffix(".avsc"): file.read_text(encoding="utf-8")
        for file in sorted(files, key=lambda file: file.name)
        if file.name.endswith(".avsc")
    }
    if not texts:  # without any, whatever an honest vehicle says would be held
        raise FileNotFoundError("no telemetry schemas are installed beside this code: install it anew, with them")
    return texts
