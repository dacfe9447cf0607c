"""Strict tests: types checked, dtypes and ranks never promoted, warnings are errors."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
# Most programs of tests run once or twice: compiling them well would take longer.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import pathlib

import jax
import pytest
from absl import flags
from jaxtyping import install_import_hook

install_import_hook("sfda_jax", "beartype.beartype")
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)

SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared"


def pytest_addoption(parser):
    parser.addoption(
        "--golden-dir",
        type=pathlib.Path,
        default=SHARED / "golden",
        help="folder of recorded cases, <system>/<case>.{npz,json}",
    )


def pytest_configure(config):
    if not flags.FLAGS.is_parsed():  # Grain's multi-process prefetch reads absl flags
        flags.FLAGS.mark_as_parsed()


@pytest.fixture(scope="session", autouse=True)
def _compiled_once(tmp_path_factory):
    """Keeps compiled programs for this process's later tests: many are the same."""
    folder = tmp_path_factory.mktemp("compiled")
    jax.config.update("jax_compilation_cache_dir", str(folder))


@pytest.fixture(scope="session")
def shared_data():
    """Folder of sample data, where it lies beside the project."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip("../shared/data is not beside this clone")
    return folder
