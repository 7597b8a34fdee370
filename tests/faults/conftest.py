import pytest

from . import runs


@pytest.fixture(scope="session")
def options(corpus_file, cache, tmp_path_factory) -> list[str]:
    return runs.small_run(corpus_file, cache, runs.write_config(tmp_path_factory.mktemp("config")))


@pytest.fixture(scope="session")
def undisturbed(options, tmp_path_factory):
    """The folder of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    result = runs.run(*options, "--output", folder)
    assert result.returncode == 0, result.stderr
    return folder
